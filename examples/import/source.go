package main

import (
	"bufio"
	"crypto/sha256"
	"encoding/csv"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/seed-9da638b0/activity"
)

var header = []string{"id", "name", "city", "balance"}

// A source is a CSV file. It is read once as a whole, and from then on each batch is read alone.
type source struct {
	file    *os.File
	batch   int     // rows in a batch; the last one may have fewer
	rows    int     // without the header
	offsets []int64 // of the beginning of each batch, and of the end of the last one
	sha256  string  // of the file
	sum     uint64  // of the hashes of all rows, to compare the table with
}

func newSource(file *os.File, batch int) (*source, error) {
	s, hash := &source{file: file, batch: batch}, sha256.New()
	r := csv.NewReader(io.TeeReader(file, hash))
	r.ReuseRecord = true
	row, err := r.Read()
	if err == nil && !slices.Equal(row, header) {
		err = fmt.Errorf("the first line must be %s (got %q)", strings.Join(header, ","), row)
	}
	for err == nil {
		if s.rows%batch == 0 {
			s.offsets = append(s.offsets, r.InputOffset())
		}
		if row, err = r.Read(); err != nil {
			break
		}
		s.rows++
		s.sum += hashOf(row)
		if !utf8.ValidString(strings.Join(row, "")) {
			err = fmt.Errorf("row %d is not UTF-8", s.rows)
		}
	}
	switch {
	case err != io.EOF:
		return nil, fmt.Errorf("%s: %w", file.Name(), err)
	case s.rows == 0:
		return nil, fmt.Errorf("%s has no rows", file.Name())
	case s.rows%batch != 0: // otherwise the end of the last batch is there already
		s.offsets = append(s.offsets, r.InputOffset())
	}
	s.sha256 = hex.EncodeToString(hash.Sum(nil))
	return s, nil
}

func (s *source) batches() int { return len(s.offsets) - 1 }

// done returns how many rows are done.
func (s *source) done(p activity.RangeProgress) int { return min(p.Next*s.batch, s.rows) }

// read returns the rows of batch i.
func (s *source) read(i int) ([][]string, error) {
	return csv.NewReader(io.NewSectionReader(s.file, s.offsets[i], s.offsets[i+1]-s.offsets[i])).ReadAll()
}

var hashSeed = maphash.MakeSeed()

// hashOf returns a hash of a row. The sum of the hashes does not depend on the order of the rows.
func hashOf(row []string) uint64 { return maphash.Comparable(hashSeed, [4]string(row)) }

// generate writes a CSV file, the same one each time. Another process sees all of it or nothing.
func generate(path string, rows int) error {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // fails if it was renamed
	names := []string{"Ada", "Alan", "Barbara", "Edsger", "Grace", "Ken", "Margaret", "Niklaus"}
	cities := []string{"Amsterdam", "Boston", "London", "New York", "Zürich"}
	w, random := bufio.NewWriter(f), rand.New(rand.NewPCG(1, 2))
	fmt.Fprintln(w, strings.Join(header, ","))
	for id := 1; id <= rows; id++ {
		name, city := names[random.IntN(len(names))], cities[random.IntN(len(cities))]
		fmt.Fprintf(w, "%d,\"%s, no. %d\",%s,%d\n", id, name, random.IntN(1000), city, random.IntN(1_000_000))
	}
	if err := errors.Join(w.Flush(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
