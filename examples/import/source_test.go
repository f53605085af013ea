package main

import (
	"encoding/csv"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/seed-9da638b0/activity"
)

func open(t *testing.T, content string, batch int) (*source, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "rows.csv")
	if err := os.WriteFile(path, []byte(content), 0o666); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return newSource(f, batch)
}

// Given rows of several lines, quotes and empty lines, when they are read in batches of any size,
// then they are those of the file.
func TestSource_Batches(t *testing.T) {
	const content = "id,name,city,balance\n1,\"two\nlines\",a,1\n\n2,\"a \"\"quote\"\"\",b,2\r\n3,,,3\n4,é,d,4\n5,\"\",\"e,e\",5\n\n6,f,f,6"
	want, err := csv.NewReader(strings.NewReader(content)).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	for batch := 1; batch <= 8; batch++ {
		s, err := open(t, content, batch)
		if err != nil {
			t.Fatal(err)
		}
		var got [][]string
		for i := range s.batches() {
			rows, err := s.read(i)
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, rows...)
			if done := s.done(activity.RangeProgress{Next: i + 1}); done != len(got) {
				t.Errorf("batches of %d: %d rows are done after batch %d, want %d", batch, done, i, len(got))
			}
		}
		if diff := cmp.Diff(want[1:], got); diff != "" || s.rows != 6 {
			t.Errorf("batches of %d: %d rows (-want +got):\n%s", batch, s.rows, diff)
		}
	}
}

// Given a file that cannot be imported, then the error says why.
func TestSource_Refuses(t *testing.T) {
	for content, want := range map[string]string{
		"":                                 "has no rows",
		"id,name\n1,a\n":                   "the first line must be id,name,city,balance",
		"id,name,city,balance\n":           "has no rows",
		"id,name,city,balance\n1,a\n":      "wrong number of fields",
		"id,name,city,balance\n1,\xff,a,1": "row 1 is not UTF-8",
	} {
		if _, err := open(t, content, 1); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: error %v, want %s", content, err, want)
		}
	}
}

// Given the same number of rows, then the same file is generated.
func TestGenerate_SameFile(t *testing.T) {
	dir := t.TempDir()
	var sums []string
	for range 2 {
		path := filepath.Join(dir, "rows.csv")
		if err := generate(path, 1000); err != nil {
			t.Fatal(err)
		}
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		s, err := open(t, string(content), 7)
		if err != nil || s.rows != 1000 {
			t.Fatalf("%v, error %v", s, err)
		}
		sums = append(sums, s.sha256)
	}
	if sums[0] != sums[1] {
		t.Errorf("SHA-256: %s", sums)
	}
	if files, err := os.ReadDir(dir); len(files) != 1 || err != nil {
		t.Errorf("there are %d files, error %v", len(files), err)
	}
}
