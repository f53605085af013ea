//go:build cgo

package servertest

import (
	"database/sql"
	"path/filepath"
	"testing"

	_ "github.com/mattn/go-sqlite3"
)

func init() {
	databases = append(databases, database{"SQLite by mattn", func(t testing.TB) func() *sql.DB {
		file := filepath.Join(t.TempDir(), "data.db")
		return func() *sql.DB {
			return openDB(t, "sqlite3", "file:"+file+"?_journal_mode=WAL&_synchronous=FULL&_busy_timeout=10000")
		}
	}})
}
