package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
)

// Dialect is a kind of database.
type Dialect int

const (
	_          Dialect = iota
	PostgreSQL         // PostgreSQL 14 or newer
	SQLite             // SQLite 3.35 or newer, in a file
)

// String returns the name of the database.
func (d Dialect) String() string {
	switch d {
	case PostgreSQL:
		return "PostgreSQL"
	case SQLite:
		return "SQLite"
	}
	return fmt.Sprintf("Dialect(%d)", int(d))
}

const (
	defaultTable  = "activity_checkpoints"
	schemaVersion = 1
)

// Schema returns the SQL statements that create the tables of the default Options.Table. [Open]
// runs them if the tables are missing. They are for programs that may not create tables, and
// whose tables are made by hand or by a migration tool. For another Options.Table, replace the
// name wherever it occurs. For another kind of database, Schema returns "".
func Schema(d Dialect) string {
	if d != PostgreSQL && d != SQLite {
		return ""
	}
	return strings.Join(names{defaultTable}.schema(d), ";\n\n") + ";\n"
}

// names has the names of a Store's tables.
type names struct{ table string }

func (n names) owners() string  { return n.table + "_owners" }
func (n names) version() string { return n.table + "_version" }

// qualify adds the schema on PostgreSQL, because a transaction of the user's may have another
// search_path. A table that does not exist will be created in the current schema.
func (n *names) qualify(ctx context.Context, db *sql.DB) error {
	if strings.Contains(n.table, ".") {
		return nil
	}
	schema := sql.NullString{} // NULL if no schema of the search_path exists
	err := db.QueryRowContext(ctx, `
		SELECT quote_ident(coalesce((
			SELECT nspname FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE c.oid = to_regclass($1::text)
		), current_schema()))`, n.table).Scan(&schema)
	switch {
	case err != nil:
		return err
	case !schema.Valid:
		return errors.New("no schema of the search_path exists")
	}
	n.table = schema.String + "." + n.table
	return nil
}

// expand replaces {table}, {owners} and {version} in a statement.
func (n names) expand(statement string) string {
	return strings.NewReplacer("{table}", n.table, "{owners}", n.owners(), "{version}", n.version()).Replace(statement)
}

// insert returns a statement that inserts the rows that source yields, if the Store owns them. A
// checkpoint in the table stays if it is newer.
func (n names) insert(source, owns string) string {
	return n.expand("INSERT INTO {table} AS c (owner, epoch, " + strings.Join(columns, ", ") + ") " + source + " WHERE " + owns + `
		ON CONFLICT (owner, id) DO UPDATE SET ` + updates() + `
		WHERE c.sequence < excluded.sequence`)
}

// updates sets each column to that of the newer row, except the ID. An input that has not changed
// stays where it is, because it may be large.
func updates() string {
	all := []string{"epoch = excluded.epoch"}
	for _, c := range columns {
		switch c {
		case "id":
		case "input":
			all = append(all, "input = CASE WHEN c.input = excluded.input THEN c.input ELSE excluded.input END")
		default:
			all = append(all, c+" = excluded."+c)
		}
	}
	return strings.Join(all, ", ")
}

// schema returns the statements that create the tables.
func (n names) schema(d Dialect) []string {
	text, number, bytes := "text", "bigint", "bytea"
	if d == SQLite {
		number, bytes = "integer", "blob"
	}
	table := &strings.Builder{}
	fmt.Fprintf(table, "CREATE TABLE IF NOT EXISTS %s (\n\towner %s NOT NULL,\n\tepoch %s NOT NULL", n.table, text, number)
	for _, c := range columns {
		t := columnType(c, text, number, bytes)
		if c == "sequence" && d == PostgreSQL { // compared byte by byte
			t += ` COLLATE "C"`
		}
		fmt.Fprintf(table, ",\n\t%s %s NOT NULL", c, t)
	}
	table.WriteString(",\n\tPRIMARY KEY (owner, id)\n)")
	if d == PostgreSQL {
		table.WriteString(" WITH (fillfactor = 50)") // rows are updated often, which is cheaper within a page
	}
	return []string{
		fmt.Sprintf("CREATE TABLE IF NOT EXISTS %s (\n\tversion %s NOT NULL\n)", n.version(), number),
		table.String(),
		fmt.Sprintf("CREATE TABLE IF NOT EXISTS %s (\n\towner %s PRIMARY KEY,\n\tepoch %s NOT NULL,\n\tholder %s NOT NULL\n)", n.owners(), text, number, text),
		n.expand(fmt.Sprintf("INSERT INTO {version} (version) SELECT %d WHERE NOT EXISTS (SELECT 1 FROM {version})", schemaVersion)),
	}
}

// migrate creates the tables if they are missing. If ReadOnly, it only checks their version.
func (s *Store) migrate(ctx context.Context) error {
	version, err := s.schemaVersion(ctx)
	if err == nil && version == 0 {
		if s.readOnly {
			return fmt.Errorf("the table %s does not exist", s.names.table)
		}
		if err = s.createTables(ctx); err != nil {
			return fmt.Errorf("creating the table %s (Schema has the statements): %w", s.names.table, err)
		}
		version, err = s.schemaVersion(ctx)
	}
	switch {
	case err != nil:
		return err
	case version > schemaVersion:
		return fmt.Errorf("the table %s has version %d, and this program knows versions up to %d: a newer version of the program has changed it", s.names.table, version, schemaVersion)
	case version < schemaVersion:
		return fmt.Errorf("the table %s has version %d, which never existed", s.names.table, version)
	}
	return nil
}

// querier is a *sql.DB, *sql.Conn or *sql.Tx.
type querier interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

// schemaVersion returns the version of the tables, or 0 if there are none.
func (s *Store) schemaVersion(ctx context.Context) (version int, err error) {
	exists, err := s.backend.tableExists(ctx, s.names.version())
	if err != nil || !exists {
		return 0, err
	}
	err = retryLocked(ctx, func() error {
		return s.db.QueryRowContext(ctx, s.names.expand("SELECT version FROM {version}")).Scan(&version)
	})
	if errors.Is(err, sql.ErrNoRows) {
		err = fmt.Errorf("the table %s is empty", s.names.version())
	}
	return version, err
}

// createTables creates the tables that do not exist.
func (s *Store) createTables(ctx context.Context) error {
	return retryLocked(ctx, func() error {
		tx, err := s.db.BeginTx(ctx, nil)
		if err != nil {
			return err
		}
		defer tx.Rollback()
		if err := s.backend.lockSchema(ctx, tx); err != nil {
			return err
		}
		for _, statement := range s.names.schema(s.dialect) {
			if _, err := tx.ExecContext(ctx, statement); err != nil {
				return err
			}
		}
		return tx.Commit()
	})
}
