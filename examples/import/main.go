// Import imports a CSV file of a million rows into SQLite or PostgreSQL, each row exactly once:
//
//	go run ./examples/import [flags]
//	go run ./examples/import -db postgres://user@host/database
//
// Kill it at any time, even with kill -9, and run it again: it continues with the next batch. If
// you start it a second time while it runs, the second process stands by. It takes over when the
// first one has ended. In the end, the program compares the table with the file.
//
// Read import.go first. The exit code is 1 if the import has failed, or if the table differs from
// the file. It is 2 for a usage error, and 130 after Ctrl-C or SIGTERM.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"log"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib"
	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"
	_ "modernc.org/sqlite"

	"github.com/seed-9da638b0/activity"
)

var (
	dsn   = flag.String("db", "file:import.db", "import into this `database`: an SQLite file, or the URL of a PostgreSQL database")
	file  = flag.String("csv", "", "import this `file`; if it is missing, it is generated (default a file in "+os.TempDir()+")")
	count = flag.Int("rows", 1_000_000, "how many rows a generated file has")
	batch = flag.Int("batch", 1000, "import so many rows in one transaction; while an import is unfinished, it must not change")
)

func main() {
	log.SetFlags(0)
	log.SetPrefix("import: ")
	flag.Parse()
	code, err := run()
	if err != nil {
		log.Print(err)
	}
	os.Exit(code)
}

// run returns the exit code.
func run() (int, error) {
	switch {
	case flag.NArg() > 0:
		return 2, fmt.Errorf("unexpected argument %q", flag.Arg(0))
	case *count < 1:
		return 2, fmt.Errorf("-rows must be at least 1 (got %d)", *count)
	case *batch < 1:
		return 2, fmt.Errorf("-batch must be at least 1 (got %d)", *batch)
	case *file == "":
		*file = filepath.Join(os.TempDir(), fmt.Sprintf("people-%d.csv", *count))
	}
	if _, err := os.Stat(*file); errors.Is(err, fs.ErrNotExist) {
		log.Printf("generating %s", *file)
		if err := generate(*file, *count); err != nil {
			return 1, err
		}
	}
	f, err := os.Open(*file)
	if err != nil {
		return 1, err
	}
	defer f.Close()
	src, err := newSource(f, *batch)
	if err != nil {
		return 1, err
	}
	db, err := openDatabase(*dsn)
	if err != nil {
		return 1, err
	}
	defer db.Close()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
	observe := progress(src)
	err = importAll(ctx, db, src, observe)
	for errors.Is(err, activity.ErrStoreLost) { // this process was silent for too long
		log.Print("another process has taken over")
		err = importAll(ctx, db, src, observe)
	}
	if err == nil {
		err = check(ctx, db, src)
	}
	switch {
	case err != nil && ctx.Err() != nil:
		return 130, errors.New("interrupted; run the same command to continue")
	case err != nil:
		return 1, err
	}
	fmt.Printf("%s rows, each once\n", comma(src.rows))
	return 0, nil
}

// progress returns a Config.Observer that shows how many rows of src are done: on a terminal with a
// bar, elsewhere with a line for each tenth.
func progress(src *source) func(activity.Event) {
	terminal, tenths := term.IsTerminal(int(os.Stderr.Fd())), 0
	bar := progressbar.NewOptions(src.rows, progressbar.OptionSetDescription("importing"), progressbar.OptionShowCount(),
		progressbar.OptionSetWriter(os.Stderr), progressbar.OptionThrottle(50*time.Millisecond), progressbar.OptionClearOnFinish(), progressbar.OptionSetVisibility(terminal))
	if terminal {
		log.SetPrefix("\r\x1b[K" + log.Prefix()) // replaces the bar, which is drawn again below
	}
	return func(e activity.Event) {
		var p activity.RangeProgress
		if recorded, err := e.HeartbeatDetails(&p); !recorded || err != nil {
			return
		}
		n := src.done(p)
		bar.Set(n)
		if t := 10 * n / src.rows; t > tenths && !terminal {
			tenths = t
			log.Printf("%s of %s rows", comma(n), comma(src.rows))
		}
	}
}

// comma returns n as in 1,000,000.
func comma(n int) string {
	s := strconv.Itoa(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
