package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode/utf8"

	"github.com/seed-9da638b0/activity"
	"github.com/seed-9da638b0/activity/boltstore"
)

// The advice for a file that a program has open.
const (
	lookInside   = "look at that program's page (package activityhttp), or let it copy the file with Store.WriteTo"
	forgetInside = "end it first, or let it call Runtime.Forget"
)

// ls lists the checkpoints. It prints the table after the file is closed, because a pager may
// keep the output waiting.
func ls(out io.Writer, o options, args []string) error {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	rows := 0
	fmt.Fprintln(table, "ID\tNAME\tSTATE\tATTEMPT\tUPDATED\tNEXT ATTEMPT\tLAST FAILURE")
	err := each(args[0], func(c activity.Checkpoint) error {
		switch {
		case o.name != "" && c.Name != o.name, o.state != "" && c.State.String() != o.state:
			return nil
		case o.json:
			return encode(out, c)
		}
		rows++
		_, err := fmt.Fprintf(table, "%s\t%s\t%v\t%d\t%s\t%s\t%s\n", word(c.ID), word(c.Name), c.State, c.Attempt, instant(c.UpdatedAt), instant(c.NextAttempt), oneLine(c.LastFailure))
		return err
	})
	if !o.json && (rows > 0 || err == nil) {
		table.Flush()
	}
	return err
}

// load returns the checkpoint that an argument stands for.
func load(file, arg string) (activity.Checkpoint, error) {
	s, err := open(file, true, lookInside)
	if err != nil {
		return activity.Checkpoint{}, err
	}
	defer s.Close()
	id, err := resolve(s, file, arg)
	if err != nil {
		return activity.Checkpoint{}, err
	}
	c, _, err := s.Load(context.Background(), id)
	return c, explain(file, err, lookInside)
}

// show shows a checkpoint with the fields of its JSON form, but with exact strings. The file is
// closed before, because a pager may keep the output waiting.
func show(out io.Writer, o options, args []string) error {
	c, err := load(args[0], args[1])
	if err != nil {
		return err
	}
	if o.json {
		return encode(out, c)
	}
	var text bytes.Buffer
	var encoded map[string]json.RawMessage
	if err := errors.Join(encode(&text, c), json.Unmarshal(text.Bytes(), &encoded)); err != nil {
		return err
	}
	fields := reflect.ValueOf(c)
	for i := range fields.NumField() {
		name, text := fields.Type().Field(i).Name, ""
		switch value := fields.Field(i).Interface().(type) {
		case string:
			if text = word(value); name == "LastFailure" {
				text = lines(value)
			}
		case time.Time:
			text = instant(value)
		case fmt.Stringer:
			text = value.String()
		default:
			text = indented(encoded[name])
		}
		fmt.Fprintf(out, "%-12s %s\n", name+":", strings.ReplaceAll(text, "\n", "\n             "))
	}
	return nil
}

func verify(out io.Writer, _ options, args []string) error {
	n := 0
	err := each(args[0], func(activity.Checkpoint) error {
		n++
		return nil
	})
	if err == nil {
		_, err = fmt.Fprintf(out, "%s: ok; checkpoints: %d\n", args[0], n)
	}
	return err
}

// forget first opens the file read-only, so that a file without these IDs stays as it is.
func forget(_ io.Writer, _ options, args []string) error {
	file := args[0]
	s, err := open(file, true, forgetInside)
	if err != nil {
		return err
	}
	var ids []string
	var errs []error
	for _, arg := range args[1:] {
		id, err := resolve(s, file, arg)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		ids = append(ids, id)
	}
	if err := s.Close(); err != nil {
		return explain(file, err, forgetInside)
	}
	if len(ids) > 0 {
		errs = append(errs, remove(file, ids))
	}
	return errors.Join(errs...)
}

func remove(file string, ids []string) error {
	s, err := open(file, false, forgetInside)
	if err != nil {
		return err
	}
	err = errors.Join(s.Delete(context.Background(), ids), s.Close())
	return explain(file, err, forgetInside)
}

func export(out io.Writer, _ options, args []string) error {
	var errs []error
	err := each(args[0], func(c activity.Checkpoint) error {
		var line bytes.Buffer
		if err := encode(&line, exported{exact(c.ID), exact(c.Name), exact(c.LastFailure), exactHeader(c.Header), record(c)}); err != nil {
			errs = append(errs, fmt.Errorf("%s: %q: not exported: %w", args[0], c.ID, err)) // a time after the year 9999
			return nil
		}
		_, err := line.WriteTo(out)
		return err
	})
	return errors.Join(append(errs, err)...)
}

// An exported is the lossless JSON form of a checkpoint. Its own fields hide those of the record.
type exported struct {
	ID, Name, LastFailure exact
	Header                exactHeader
	record
}

// A record encodes its bytes in base64, since it does not have Checkpoint's MarshalJSON.
type record activity.Checkpoint

// An exact is a string that keeps invalid UTF-8.
type exact string

func (s exact) MarshalJSON() ([]byte, error) {
	if utf8.ValidString(string(s)) {
		return json.Marshal(string(s))
	}
	return json.Marshal(map[string][]byte{"base64": []byte(s)})
}

// An exactHeader is an object or, if a string is not valid UTF-8, a list of keys and values.
type exactHeader map[string]string

func (h exactHeader) MarshalJSON() ([]byte, error) {
	valid := true
	var pairs [][2]exact
	for _, k := range slices.Sorted(maps.Keys(h)) {
		valid = valid && utf8.ValidString(k) && utf8.ValidString(h[k])
		pairs = append(pairs, [2]exact{exact(k), exact(h[k])})
	}
	if valid {
		return json.Marshal(map[string]string(h))
	}
	return json.Marshal(pairs)
}

// open opens the Store's file. The advice is for a file that a program has open.
func open(file string, readOnly bool, advice string) (*boltstore.Store, error) {
	s, err := boltstore.Open(file, &boltstore.Options{ReadOnly: readOnly})
	return s, explain(file, err, advice)
}

// each calls f with each checkpoint in the file, and returns the errors of all damaged records.
func each(file string, f func(activity.Checkpoint) error) error {
	s, err := open(file, true, lookInside)
	if err != nil {
		return err
	}
	defer s.Close()
	for c, err := range s.All(context.Background()) {
		if err == nil {
			err = f(c)
		} else {
			err = explain(file, err, lookInside)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// explain shortens an error of boltstore. Each line of the result names the file.
func explain(file string, err error, advice string) error {
	var several interface{ Unwrap() []error }
	var path *fs.PathError
	switch {
	case err == nil:
		return nil
	case errors.Is(err, boltstore.ErrInUse):
		return fmt.Errorf("%s: another process has the file open: %s", file, advice)
	case errors.As(err, &several):
		var errs []error
		for _, err := range several.Unwrap() {
			errs = append(errs, fmt.Errorf("%s: %w", file, err))
		}
		return errors.Join(errs...)
	case errors.As(err, &path):
		return fmt.Errorf("%s: %w", file, path.Err)
	}
	text := strings.TrimPrefix(err.Error(), "boltstore: ")
	if why, ok := strings.CutPrefix(text, file+": open: "); ok { // each command opens the file
		text = file + ": " + why
	}
	return errors.New(text)
}

// resolve returns the ID that an argument stands for: the argument itself or, if it is a quoted Go
// string, that string. A damaged record exists as well.
func resolve(s *boltstore.Store, file, arg string) (string, error) {
	candidates := []string{arg}
	if unquoted, err := strconv.Unquote(arg); err == nil && arg[0] == '"' {
		candidates = append(candidates, unquoted)
	}
	var ids []string
	for _, id := range candidates {
		if _, found, err := s.Load(context.Background(), id); found || err != nil {
			ids = append(ids, id)
		}
	}
	switch len(ids) {
	case 0:
		return "", fmt.Errorf("%s: there is no checkpoint with the ID %q", file, candidates[len(candidates)-1])
	case 1:
		return ids[0], nil
	}
	return "", fmt.Errorf("%s: ambiguous ID, because both %q and %q exist", file, ids[0], ids[1])
}

func encode(out io.Writer, v any) error {
	e := json.NewEncoder(out)
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// word returns s, quoted unless it is one word of printable characters.
func word(s string) string {
	if quoted := strconv.Quote(s); len(quoted) > len(s)+2 || s == "" || strings.Contains(s, " ") {
		return quoted
	}
	return s
}

const maxLine = 60 // the largest number of characters of a failure in a table

// oneLine returns the first line of s, cut to maxLine.
func oneLine(s string) string {
	if s == "" {
		return "-"
	}
	line, _, cut := strings.Cut(s, "\n")
	line = strings.ReplaceAll(printable(line), "\t", " ") // a tab would end the cell
	if r := []rune(line); len(r) > maxLine {
		line, cut = string(r[:maxLine]), true
	}
	if cut {
		line += "..."
	}
	return line
}

// lines returns s as it is to be shown in full.
func lines(s string) string {
	if s == "" {
		return "-"
	}
	return printable(s)
}

// printable replaces what could control a terminal, except newlines and tabs, by the escape
// sequences of Go.
func printable(s string) string {
	var b strings.Builder
	for len(s) > 0 {
		r, size := utf8.DecodeRuneInString(s)
		if r == '\n' || r == '\t' || strconv.IsPrint(r) && r != utf8.RuneError {
			b.WriteString(s[:size])
		} else {
			quoted := strconv.Quote(s[:size])
			b.WriteString(quoted[1 : len(quoted)-1])
		}
		s = s[size:]
	}
	return b.String()
}

// instant returns a time, cut to seconds. A Store returns it in UTC.
func instant(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.Format(time.RFC3339)
}

// indented returns a JSON value as it is to be shown.
func indented(value json.RawMessage) string {
	var b bytes.Buffer
	if string(value) == "null" || json.Indent(&b, value, "", "  ") != nil {
		return "-"
	}
	return printable(b.String())
}
