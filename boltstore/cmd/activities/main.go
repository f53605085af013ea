// Activities shows and maintains the file of a [boltstore.Store] while no program has it open.
//
//	go run github.com/seed-9da638b0/activity/boltstore/cmd/activities ls activities.db
//
// Run it in a module that requires boltstore, so that it reads the same versions of the file.
//
// The commands are ls, show, verify, forget, export and backup. "activities help" lists them, and
// "activities help ls" describes one. Only forget changes the file. The exit status is 0 for
// success, 1 for a failure or a damaged file, and 2 for wrong usage.
//
// A program that runs activities keeps its file locked. Every command then fails with one
// sentence that says how to look instead. While a command has the file open, a program that opens
// it waits for LockTimeout, see [boltstore.Options], and then fails. So do not keep "ls -json" or
// export waiting in a pager. Write their output to a file instead.
package main

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"

	"github.com/seed-9da638b0/activity"
)

func main() {
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

// A command is one of the tool's commands.
type command struct {
	name     string
	usage    string // flags and arguments
	short    string // for the list of commands
	help     string
	flags    func(*flag.FlagSet, *options) // nil if there are none
	min, max int                           // number of arguments
	run      func(out io.Writer, o options, args []string) error
}

// options has the flags of all commands.
type options struct {
	json  bool
	name  string
	state string
}

const manyArguments = 1 << 30

var commands = []command{{
	name: "ls", usage: "[-json] [-name name] [-state state] FILE", min: 1, max: 1, run: ls,
	short: "list the checkpoints",
	help: `Ls lists the checkpoints in the order of their IDs. An ID or a name that has spaces,
quotes, backslashes or unprintable characters is quoted as a Go string. The last
failure is cut to one line. Times are in UTC.

With -json, each line is a JSON object, with the fields of activity.Checkpoint.
Input and Details are the values that are stored if they are JSON, and otherwise
base64 strings. Invalid UTF-8 in strings is replaced: use export to keep it.`,
	flags: func(fs *flag.FlagSet, o *options) {
		jsonFlag(fs, o)
		fs.StringVar(&o.name, "name", "", "list only the checkpoints of activities with this `name`")
		fs.Func("state", "list only the checkpoints in this `state`: waiting, running, interrupted, paused, failed or canceled", func(text string) error {
			o.state = text
			return new(activity.CheckpointState).UnmarshalText([]byte(text))
		})
	},
}, {
	name: "show", usage: "[-json] FILE ID", min: 2, max: 2, run: show,
	short: "show one checkpoint in full",
	help: `Show shows one checkpoint in full. With -json, it is one line as of "ls -json".
` + idHelp,
	flags: jsonFlag,
}, {
	name: "verify", usage: "FILE", min: 1, max: 1, run: verify,
	short: "check the file for damage",
	help: `Verify reads the whole file and checks its pages and each record. If something is
damaged, it says what and where, and the exit status is 1.`,
}, {
	name: "forget", usage: "FILE ID...", min: 2, max: manyArguments, run: forget,
	short: "delete checkpoints",
	help: `Forget deletes the checkpoints with these IDs, all in one commit. The next execution of
such an ID starts from the beginning. Forget names the IDs that do not exist, and then
the exit status is 1. If none exists, the file stays as it is. Otherwise forget may
also rewrite a file that is mostly free, as each program that opens it does.
` + idHelp,
}, {
	name: "export", usage: "FILE", min: 1, max: 1, run: export,
	short: "write everything as JSON",
	help: `Export writes all checkpoints, in the order of their IDs, and loses nothing. Each line
is a JSON object with the fields of activity.Checkpoint. Input and Details are the
stored bytes in base64, or null. In Details, each value comes after its length, a
uvarint. A string that is not valid UTF-8 is an object, such as {"base64":"/w=="}. A
Header with such a string is a list of its keys and values.
A zero time is "0001-01-01T00:00:00Z".`,
}, {
	name: "backup", usage: "FILE DEST", min: 2, max: 2, run: backup,
	short: "copy the file",
	help: `Backup copies the file. When it has succeeded, the copy is durable, and only its owner
can read it. DEST must not exist. If backup is killed, it can leave a file beside DEST
with ".new" in its name.

To copy the file of a running program, let the program call Store.WriteTo.`,
}}

const idHelp = `
An ID is given as it is, or quoted as a Go string as ls shows it. In a shell, put a
quoted one between single quotes: '"a\xff"'.`

func jsonFlag(fs *flag.FlagSet, o *options) {
	fs.BoolVar(&o.json, "json", false, "write JSON")
}

// run runs the tool and returns its exit status.
func run(args []string, stdout, stderr io.Writer) int {
	if len(args) == 0 {
		printUsage(stderr)
		return 2
	}
	out := bufio.NewWriter(stdout)
	err := dispatch(args, out)
	if e := out.Flush(); !errors.Is(err, e) {
		err = errors.Join(err, e)
	}
	if err == nil {
		return 0
	}
	for line := range strings.Lines(err.Error()) {
		fmt.Fprintln(stderr, "activities:", strings.TrimSuffix(line, "\n"))
	}
	if e := (*usageError)(nil); errors.As(err, &e) {
		fmt.Fprintln(stderr, e.usage)
		return 2
	}
	return 1
}

// A usageError is an error in the command line.
type usageError struct{ problem, usage string }

func (e *usageError) Error() string { return e.problem }

func dispatch(args []string, out io.Writer) error {
	name, args := args[0], args[1:]
	switch name {
	case "help", "-h", "-help", "--help":
		if len(args) == 0 {
			printUsage(out)
			return nil
		}
		c, err := find(args[0])
		if err == nil {
			c.printHelp(out)
		}
		return err
	}
	c, err := find(name)
	if err != nil {
		return err
	}
	var o options
	fs := c.flagSet(&o)
	err = fs.Parse(args)
	switch n := fs.NArg(); {
	case errors.Is(err, flag.ErrHelp):
		c.printHelp(out)
		return nil
	case err != nil:
		return c.misused(err.Error())
	case n < c.min:
		return c.misused("missing argument")
	case n > c.max:
		return c.misused("too many arguments; flags come before FILE")
	}
	return c.run(out, o, fs.Args())
}

func find(name string) (command, error) {
	for _, c := range commands {
		if c.name == name {
			return c, nil
		}
	}
	return command{}, &usageError{fmt.Sprintf("unknown command %q", name), `Run "activities help" for usage.`}
}

// flagSet returns the command's flags. It reports nothing itself, so that each error is one line.
func (c command) flagSet(o *options) *flag.FlagSet {
	fs := flag.NewFlagSet(c.name, flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	if c.flags != nil {
		c.flags(fs, o)
	}
	return fs
}

func (c command) usageLine() string {
	return fmt.Sprintf("usage: activities %s %s", c.name, c.usage)
}

func (c command) misused(problem string) error {
	return &usageError{c.name + ": " + problem, fmt.Sprintf("%s\nRun \"activities help %s\" for details.", c.usageLine(), c.name)}
}

func (c command) printHelp(out io.Writer) {
	fmt.Fprintf(out, "%s\n\n%s\n", c.usageLine(), c.help)
	if c.flags != nil {
		fmt.Fprintln(out, "\nThe flags are:")
		fs := c.flagSet(new(options))
		fs.SetOutput(out)
		fs.PrintDefaults()
	}
}

func printUsage(out io.Writer) {
	fmt.Fprint(out, "Activities shows and maintains the file of a boltstore.Store.\n\n"+
		"Usage:\n\n\tactivities <command> [flags] FILE [arguments]\n\nThe commands are:\n\n")
	table := tabwriter.NewWriter(out, 0, 0, 4, ' ', 0)
	for _, c := range commands {
		fmt.Fprintf(table, "\t%s\t%s\n", c.name, c.short)
	}
	table.Flush()
	fmt.Fprintln(out, "\nRun \"activities help <command>\" for more about a command.")
}
