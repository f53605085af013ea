package storetest

import (
	"context"
	"errors"
	"iter"
	"maps"
	"math"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/seed-9da638b0/activity"
)

var errBroken = errors.New("broken")

// A brokenStore is a Store with one fault.
type brokenStore struct {
	name   string
	found  map[string]string // part of the message, by the name of the check that finds the fault
	breaks func(f *fake)
}

func brokenStores() []brokenStore {
	return slices.Concat(brokenBasics, brokenValues, brokenOwners, brokenDurability, brokenLoops, brokenEnds, brokenMany)
}

var brokenBasics = []brokenStore{
	{"Load of a missing ID is an error", map[string]string{"LoadMissing": "broken"}, func(f *fake) {
		f.load = func(ctx context.Context, id string) (activity.Checkpoint, bool, error) {
			c, ok, err := f.Memory.Load(ctx, id)
			if err == nil && !ok {
				err = errBroken
			}
			return c, ok, err
		}
	}},
	{"Load finds a missing ID", map[string]string{"LoadMissing": "want none", "SaveAndLoad": "want none"}, func(f *fake) {
		f.load = func(ctx context.Context, id string) (activity.Checkpoint, bool, error) {
			c, _, err := f.Memory.Load(ctx, id)
			return c, err == nil, err
		}
	}},
	{"Save does nothing", map[string]string{"SaveAndLoad": "not found", "SaveBatch": "not found", "DurableSave": "not found"}, func(f *fake) {
		f.save = func(context.Context, []activity.Checkpoint) error { return nil }
	}},
	{"MayHold knows nothing", map[string]string{"SaveAndLoad": "MayHold", "SaveBatch": "MayHold"}, func(f *fake) {
		f.holds = func(string) bool { return false }
	}},
	{"MayHold forgets an ID that is saved again", map[string]string{"Delete": "MayHold"}, func(f *fake) {
		var deleted sync.Map
		f.remove = func(ctx context.Context, ids []string) error {
			for _, id := range ids {
				deleted.Store(id, true)
			}
			return f.Memory.Delete(ctx, ids)
		}
		f.holds = func(id string) bool {
			_, gone := deleted.Load(id)
			return !gone
		}
	}},
	{"MayHold does not know what it finds at the start", map[string]string{"DurableSave": "MayHold"}, func(f *fake) {
		f.reopen = func() activity.Store {
			again := newFake(f.Memory.Clone())
			again.holds = func(string) bool { return false }
			return again
		}
	}},
	{"Save keeps the first of an ID", map[string]string{"SaveReplaces": "the wrong Sequence", "ReadDuringSaves": "got Sequence 1 (0 means not found), want at least"}, func(f *fake) {
		f.save = func(ctx context.Context, batch []activity.Checkpoint) error {
			var fresh []activity.Checkpoint
			for _, c := range batch {
				if f.get(c.ID).ID == "" {
					fresh = append(fresh, c)
				}
			}
			return f.Memory.Save(ctx, fresh)
		}
	}},
	{"Load returns the first result again", map[string]string{"SaveReplaces": "Load: ID \"a\" has the wrong"}, func(f *fake) {
		found := make(map[string]activity.Checkpoint)
		f.onLoad(func(c activity.Checkpoint) activity.Checkpoint {
			if _, ok := found[c.ID]; !ok {
				found[c.ID] = c
			}
			return found[c.ID]
		})
	}},
	{"Save merges", map[string]string{"SaveReplaces": "the wrong Details", "LargeDetails": "the wrong Details"}, func(f *fake) {
		f.onSave(func(c activity.Checkpoint) activity.Checkpoint {
			if len(c.Details) == 0 {
				c.Details = f.get(c.ID).Details
			}
			return c
		})
	}},
	{"Save keeps an Input of the same length", map[string]string{"SaveReplaces": "the wrong Input"}, func(f *fake) {
		f.onSave(func(c activity.Checkpoint) activity.Checkpoint {
			if old := f.get(c.ID).Input; len(old) == len(c.Input) {
				c.Input = old
			}
			return c
		})
	}},
	{"Save never replaces a failed activity", map[string]string{"SaveReplacesStates": "ID \"failed to running\" has the wrong Sequence"}, func(f *fake) {
		f.onSave(func(c activity.Checkpoint) activity.Checkpoint {
			if old := f.get(c.ID); old.State == activity.CheckpointFailed {
				return old
			}
			return c
		})
	}},
	{"Save appends", map[string]string{"SaveReplaces": "2 times", "AllBodySaves": "never ends"}, func(f *fake) {
		var mu sync.Mutex
		saved := make(map[string]int)
		f.save = func(ctx context.Context, batch []activity.Checkpoint) error {
			mu.Lock()
			defer mu.Unlock()
			for _, c := range batch {
				saved[c.ID]++
			}
			return f.Memory.Save(ctx, batch)
		}
		f.onYield(func(yield func(activity.Checkpoint, error) bool, c activity.Checkpoint, err error) bool {
			mu.Lock()
			n := saved[c.ID]
			mu.Unlock()
			for range n {
				if !yield(c, err) {
					return false
				}
			}
			return true
		})
	}},
	{"Save keeps the last of a batch only", map[string]string{"SaveBatch": "not found"}, func(f *fake) {
		f.save = func(ctx context.Context, batch []activity.Checkpoint) error {
			return f.Memory.Save(ctx, batch[max(0, len(batch)-1):])
		}
	}},
	{"Save of nothing panics", map[string]string{"SaveEmptyBatch": "panic"}, func(f *fake) {
		f.save = func(ctx context.Context, batch []activity.Checkpoint) error {
			_ = batch[0]
			return f.Memory.Save(ctx, batch)
		}
	}},
	{"Save of nothing clears", map[string]string{"SaveEmptyBatch": "0 times"}, func(f *fake) {
		f.save = func(ctx context.Context, batch []activity.Checkpoint) error {
			if len(batch) == 0 {
				return f.Memory.Delete(ctx, []string{"a"})
			}
			return f.Memory.Save(ctx, batch)
		}
	}},
	{"Delete does nothing", map[string]string{"Delete": "want none", "DeleteSeveral": "want none", "AllBodyDeletes": "want none"}, func(f *fake) {
		f.remove = func(context.Context, []string) error { return nil }
	}},
	{"Save ignores deleted IDs", map[string]string{"Delete": "0 times"}, func(f *fake) {
		gone := make(map[string]bool)
		f.remove = func(ctx context.Context, ids []string) error {
			for _, id := range ids {
				gone[id] = true
			}
			return f.Memory.Delete(ctx, ids)
		}
		f.save = func(ctx context.Context, batch []activity.Checkpoint) error {
			return f.Memory.Save(ctx, slices.DeleteFunc(slices.Clone(batch), func(c activity.Checkpoint) bool { return gone[c.ID] }))
		}
	}},
	{"remembers the Sequence of a deleted ID", map[string]string{"Delete": "must take Sequence 1 again after Delete"}, func(f *fake) {
		last := make(map[string]uint64)
		f.save = func(ctx context.Context, batch []activity.Checkpoint) error {
			for _, c := range batch {
				if c.Sequence <= last[c.ID] {
					return errStale
				}
				last[c.ID] = c.Sequence
			}
			return f.Memory.Save(ctx, batch)
		}
	}},
	{"Delete leaves the Input for the next Save", map[string]string{"Delete": "after Delete and a new Save with Sequence 1: Load: ID \"a\" has the wrong Input"}, func(f *fake) {
		left := make(map[string][]byte) // by ID
		f.remove = func(ctx context.Context, ids []string) error {
			for _, id := range ids {
				left[id] = f.get(id).Input
			}
			return f.Memory.Delete(ctx, ids)
		}
		f.onSave(func(c activity.Checkpoint) activity.Checkpoint {
			if len(c.Input) == 0 && f.get(c.ID).ID == "" {
				c.Input = left[c.ID]
			}
			return c
		})
	}},
	{"Delete of a missing ID is an error", map[string]string{"DeleteMissing": "a missing ID must not be an error"}, func(f *fake) {
		f.remove = func(ctx context.Context, ids []string) error {
			if len(ids) == 1 && f.get(ids[0]).ID == "" {
				return errBroken
			}
			return f.Memory.Delete(ctx, ids)
		}
	}},
	{"Delete of a missing ID among others is an error", map[string]string{"DeleteMissing": "a missing ID among others must not be an error"}, func(f *fake) {
		f.remove = func(ctx context.Context, ids []string) error {
			for _, id := range ids {
				if len(ids) > 1 && f.get(id).ID == "" {
					return errBroken
				}
			}
			return f.Memory.Delete(ctx, ids)
		}
	}},
	{"Load finds nothing after a Delete", map[string]string{"Delete": "Load of ID \"b\": not found", "Concurrent": "not found"}, func(f *fake) {
		var deleted atomic.Bool
		f.remove = func(ctx context.Context, ids []string) error {
			deleted.Store(true)
			return f.Memory.Delete(ctx, ids)
		}
		f.load = func(ctx context.Context, id string) (activity.Checkpoint, bool, error) {
			c, ok, err := f.Memory.Load(ctx, id)
			return c, ok && !deleted.Load(), err
		}
	}},
	{"Delete ends at a missing ID", map[string]string{"DeleteMissing": "which is not stored"}, func(f *fake) {
		f.remove = func(ctx context.Context, ids []string) error {
			for i, id := range ids {
				if f.get(id).ID == "" {
					ids = ids[:i]
					break
				}
			}
			return f.Memory.Delete(ctx, ids)
		}
	}},
	{"Delete removes only the first ID", map[string]string{"DeleteSeveral": "want none"}, func(f *fake) {
		f.remove = func(ctx context.Context, ids []string) error {
			return f.Memory.Delete(ctx, ids[:min(1, len(ids))])
		}
	}},
	{"Delete of none deletes all", map[string]string{"DeleteNone": "0 times"}, func(f *fake) {
		f.remove = func(ctx context.Context, ids []string) error {
			if len(ids) == 0 {
				ids, _ = f.ids(ctx)
			}
			return f.Memory.Delete(ctx, ids)
		}
	}},
	{"Delete of none is an error", map[string]string{"DeleteNone": "broken"}, func(f *fake) {
		f.remove = func(ctx context.Context, ids []string) error {
			if len(ids) == 0 {
				return errBroken
			}
			return f.Memory.Delete(ctx, ids)
		}
	}},
	{"Save loses the batch of a concurrent Save", map[string]string{"Concurrent": "not found"}, func(f *fake) {
		// The first Save reads everything, and writes it back after the second Save has written.
		var calls atomic.Int32
		second, back := make(chan struct{}), make(chan struct{})
		f.save = func(ctx context.Context, batch []activity.Checkpoint) error {
			switch calls.Add(1) {
			case 1:
				defer close(back)
				before := f.Clone()
				<-second
				if err := before.Save(ctx, batch); err != nil {
					return err
				}
				f.mu.Lock()
				defer f.mu.Unlock()
				f.checkpoints = before.checkpoints
				return nil
			case 2:
				defer func() { close(second); <-back }()
			}
			return f.Memory.Save(ctx, batch)
		}
	}},
	{"two calls at once block each other", map[string]string{"Concurrent": "Save among concurrent calls did not return within"}, func(f *fake) {
		var calls atomic.Int32
		f.save = func(ctx context.Context, batch []activity.Checkpoint) error {
			if calls.Add(1) > 1 {
				return f.hang()
			}
			return f.Memory.Save(ctx, batch)
		}
	}},
}

var brokenValues = []brokenStore{
	{"drops IDs with a NUL", map[string]string{"IDs": "not found"}, func(f *fake) {
		f.save = func(ctx context.Context, batch []activity.Checkpoint) error {
			return f.Memory.Save(ctx, slices.DeleteFunc(slices.Clone(batch), func(c activity.Checkpoint) bool {
				return strings.Contains(c.ID, "\x00")
			}))
		}
	}},
	{"folds the case of IDs", map[string]string{"IDs": "the wrong Name"}, func(f *fake) { f.onID(strings.ToLower) }},
	{"trims IDs", map[string]string{"IDs": "the wrong Name"}, func(f *fake) { f.onID(strings.TrimSpace) }},
	{"ends IDs at a NUL", map[string]string{"IDs": "the wrong Name"}, func(f *fake) {
		f.onID(func(id string) string {
			id, _, _ = strings.Cut(id, "\x00")
			return id
		})
	}},
	{"truncates IDs to 1023 bytes", map[string]string{"IDs": "the wrong Name"}, func(f *fake) {
		f.onID(func(id string) string { return id[:min(len(id), 1023)] })
	}},
	{"refuses IDs of 1024 bytes", map[string]string{"IDs": "broken"}, func(f *fake) {
		f.save = func(ctx context.Context, batch []activity.Checkpoint) error {
			for _, c := range batch {
				if len(c.ID) > 1023 {
					return errBroken
				}
			}
			return f.Memory.Save(ctx, batch)
		}
	}},
	{"makes IDs UTF-8", map[string]string{"IDs": "the wrong Name"}, func(f *fake) {
		f.onID(func(id string) string { return strings.ToValidUTF8(id, "\ufffd") })
	}},
	{"unescapes slashes in IDs", map[string]string{"IDs": "the wrong Name"}, func(f *fake) {
		f.onID(func(id string) string { return strings.ReplaceAll(id, "%2F", "/") })
	}},
	{"deletes every ID with that prefix", map[string]string{"IDs": "after Delete of other IDs"}, func(f *fake) {
		f.remove = func(ctx context.Context, ids []string) error {
			all, err := f.ids(ctx)
			if err != nil {
				return err
			}
			return f.Memory.Delete(ctx, slices.DeleteFunc(all, func(id string) bool {
				return !slices.ContainsFunc(ids, func(gone string) bool { return strings.HasPrefix(id, gone) })
			}))
		}
	}},
	{"loses a nanosecond", map[string]string{"Fields": "At: got"}, func(f *fake) {
		f.onTime(func(t time.Time) time.Time {
			if t.Nanosecond()%10 == 9 {
				t = t.Add(-1)
			}
			return t
		})
	}},
	{"keeps microseconds", map[string]string{"Fields": "At: got"}, func(f *fake) {
		f.onTime(func(t time.Time) time.Time { return t.Truncate(time.Microsecond) })
	}},
	{"loses the instant of another zone", map[string]string{"Fields": "At: got"}, func(f *fake) {
		f.onTime(func(t time.Time) time.Time {
			return time.Date(t.Year(), t.Month(), t.Day(), t.Hour(), t.Minute(), t.Second(), t.Nanosecond(), time.UTC)
		})
	}},
	{"has no seconds in a zone", map[string]string{"Fields": "At: got"}, func(f *fake) {
		f.onTime(func(t time.Time) time.Time {
			back, err := time.Parse(time.RFC3339Nano, t.Format(time.RFC3339Nano))
			if err != nil {
				panic(err)
			}
			return back
		})
	}},
	{"keeps times as UnixNano", map[string]string{"Fields": "At: got"}, func(f *fake) {
		f.onTime(func(t time.Time) time.Time {
			if t.IsZero() {
				return t
			}
			return time.Unix(0, t.UnixNano())
		})
	}},
	{"has no time before 1970", map[string]string{"Fields": "At: got"}, func(f *fake) {
		f.onTime(func(t time.Time) time.Time {
			if t.Before(time.Unix(0, 0)) && !t.IsZero() {
				return time.Unix(0, 0)
			}
			return t
		})
	}},
	{"has nanoseconds without a sign before 1970", map[string]string{"Fields": "At: got"}, func(f *fake) {
		f.onTime(func(t time.Time) time.Time {
			if t.Unix() == -1 {
				return time.Unix(0, int64(1e9-t.Nanosecond()))
			}
			return t
		})
	}},
	{"keeps microseconds before 1970", map[string]string{"Fields": "At: got"}, func(f *fake) {
		f.onTime(func(t time.Time) time.Time {
			if t.Unix() < 0 {
				return t.Truncate(time.Microsecond)
			}
			return t
		})
	}},
	{"has no time before 1678", map[string]string{"Fields": "At: got"}, func(f *fake) {
		first := time.Unix(0, math.MinInt64)
		f.onTime(func(t time.Time) time.Time {
			if t.Before(first) && t.Year() > 1600 {
				return first
			}
			return t
		})
	}},
	{"keeps the seconds of 1901 to 2099 in 32 bits", map[string]string{"Fields": "At: got 1901"}, func(f *fake) {
		f.onTime(func(t time.Time) time.Time {
			if year := t.Year(); year > 1900 && year < 2100 {
				return time.Unix(int64(int32(t.Unix())), int64(t.Nanosecond()))
			}
			return t
		})
	}},
	{"keeps seconds in 32 bits without a sign", map[string]string{"Fields": "At: got 1970"}, func(f *fake) {
		f.onTime(func(t time.Time) time.Time {
			if year := t.Year(); year >= 1970 && year < 2200 {
				return time.Unix(int64(uint32(t.Unix())), int64(t.Nanosecond()))
			}
			return t
		})
	}},
	{"drops the NextAttempt of an activity that does not wait", map[string]string{"Fields": "the wrong NextAttempt"}, func(f *fake) {
		f.onSave(func(c activity.Checkpoint) activity.Checkpoint {
			if c.State != activity.CheckpointWaiting {
				c.NextAttempt = time.Time{}
			}
			return c
		})
	}},
	{"keeps the NextAttempt that was saved first", map[string]string{"SaveReplaces": "the wrong NextAttempt"}, func(f *fake) {
		f.onSave(func(c activity.Checkpoint) activity.Checkpoint {
			if first := f.get(c.ID).NextAttempt; !first.IsZero() {
				c.NextAttempt = first
			}
			return c
		})
	}},
	{"drops the Header", map[string]string{"Fields": "the wrong Header"}, func(f *fake) {
		f.onSave(func(c activity.Checkpoint) activity.Checkpoint {
			c.Header = nil
			return c
		})
	}},
	{"keeps only UTF-8 in the Header", map[string]string{"Fields": "the wrong Header"}, func(f *fake) {
		f.onSave(func(c activity.Checkpoint) activity.Checkpoint {
			h := map[string]string{}
			for k, v := range c.Header {
				h[strings.ToValidUTF8(k, "")] = v
			}
			c.Header = h
			return c
		})
	}},
	{"turns the zero time into 1970", map[string]string{"Fields": "At: got 1970"}, func(f *fake) {
		f.onTime(func(t time.Time) time.Time {
			if t.IsZero() {
				return time.Unix(0, 0)
			}
			return t
		})
	}},
	{"makes texts UTF-8", map[string]string{"Fields": "the wrong Name"}, func(f *fake) {
		f.onSave(func(c activity.Checkpoint) activity.Checkpoint {
			c.Name = strings.ToValidUTF8(c.Name, "\ufffd")
			return c
		})
	}},
	{"ends texts at a NUL", map[string]string{"Fields": "the wrong LastFailure"}, func(f *fake) {
		f.onSave(func(c activity.Checkpoint) activity.Checkpoint {
			c.LastFailure, _, _ = strings.Cut(c.LastFailure, "\x00")
			return c
		})
	}},
	{"cuts LastFailure at 8 KiB", map[string]string{"Fields": "the wrong LastFailure"}, func(f *fake) {
		f.onSave(func(c activity.Checkpoint) activity.Checkpoint {
			c.LastFailure = c.LastFailure[:min(len(c.LastFailure), 8<<10)]
			return c
		})
	}},
	{"keeps Sequence as a float64", map[string]string{"Fields": "the wrong Sequence"}, func(f *fake) {
		f.onSave(func(c activity.Checkpoint) activity.Checkpoint {
			if c.Sequence < math.MaxUint64/2 {
				c.Sequence = uint64(float64(c.Sequence))
			}
			return c
		})
	}},
	{"keeps Sequence as an int64", map[string]string{"Fields": "the wrong Sequence"}, func(f *fake) {
		f.onSave(func(c activity.Checkpoint) activity.Checkpoint {
			c.Sequence = min(c.Sequence, math.MaxInt64)
			return c
		})
	}},
	{"keeps Attempt in 16 bits", map[string]string{"Fields": "the wrong Attempt"}, func(f *fake) {
		f.onSave(func(c activity.Checkpoint) activity.Checkpoint {
			c.Attempt = int(uint16(c.Attempt))
			return c
		})
	}},
	{"knows three states", map[string]string{"Fields": "the wrong State"}, func(f *fake) {
		f.onSave(func(c activity.Checkpoint) activity.Checkpoint {
			c.State = min(c.State, activity.CheckpointFailed)
			return c
		})
	}},
	{"drops IDs with a NUL when reopened", map[string]string{"IDs": "times, want once"}, func(f *fake) {
		f.reopen = func() activity.Store {
			m := f.Clone()
			maps.DeleteFunc(m.checkpoints, func(id string, _ activity.Checkpoint) bool { return strings.Contains(id, "\x00") })
			return m
		}
	}},
	{"drops Details when reopened", map[string]string{"Fields": "reopened"}, func(f *fake) {
		f.reopen = func() activity.Store {
			again := newFake(f.Clone())
			again.onRead(func(c activity.Checkpoint) activity.Checkpoint {
				c.Details = nil
				return c
			})
			return again
		}
	}},
	{"turns a nil Input into null", map[string]string{"Fields": "the wrong Input"}, func(f *fake) {
		f.onSave(func(c activity.Checkpoint) activity.Checkpoint {
			if c.Input == nil {
				c.Input = []byte("null")
			}
			return c
		})
	}},
	{"limits Details to 1 MiB", map[string]string{"LargeDetails": "broken"}, func(f *fake) {
		f.save = func(ctx context.Context, batch []activity.Checkpoint) error {
			for _, c := range batch {
				if len(c.Details) > 1<<20 {
					return errBroken
				}
			}
			return f.Memory.Save(ctx, batch)
		}
	}},
	{"limits a batch to 4 MiB", map[string]string{"LargeDetails": "broken"}, func(f *fake) {
		f.save = func(ctx context.Context, batch []activity.Checkpoint) error {
			size := 0
			for _, c := range batch {
				size += len(c.Details) + len(c.Input)
			}
			if size > 4<<20 {
				return errBroken
			}
			return f.Memory.Save(ctx, batch)
		}
	}},
}

var brokenOwners = []brokenStore{
	{"keeps the caller's bytes", map[string]string{"ArgumentsAreTheCallers": "Save kept"}, func(f *fake) {
		disk := new(Memory)
		f.reopen = func() activity.Store { return disk.Clone() }
		f.save = func(ctx context.Context, batch []activity.Checkpoint) error {
			if err := errors.Join(disk.Save(ctx, batch), f.Memory.Save(ctx, batch)); err != nil {
				return err
			}
			f.keep(batch)
			return nil
		}
	}},
	{"writes the caller's bytes later", map[string]string{"ArgumentsAreTheCallers": "reopened: Save kept"}, func(f *fake) {
		disk := newFake(new(Memory))
		f.reopen = func() activity.Store { return disk.Clone() }
		f.save = func(ctx context.Context, batch []activity.Checkpoint) error {
			if err := errors.Join(disk.Save(ctx, batch), f.Memory.Save(ctx, batch)); err != nil {
				return err
			}
			disk.keep(batch)
			return nil
		}
	}},
	{"keeps the caller's batch", map[string]string{"ArgumentsAreTheCallers": "Save kept"}, func(f *fake) {
		var kept []activity.Checkpoint
		f.save = func(_ context.Context, batch []activity.Checkpoint) error {
			kept = batch
			return nil
		}
		f.all = func(ctx context.Context) iter.Seq2[activity.Checkpoint, error] {
			var m Memory
			if err := m.Save(ctx, kept); err != nil {
				panic(err)
			}
			return m.All(ctx)
		}
	}},
	{"sorts the caller's batch", map[string]string{"ArgumentsAreTheCallers": "Save changed its argument"}, func(f *fake) {
		f.save = func(ctx context.Context, batch []activity.Checkpoint) error {
			slices.SortFunc(batch, func(a, b activity.Checkpoint) int { return strings.Compare(a.ID, b.ID) })
			return f.Memory.Save(ctx, batch)
		}
	}},
	{"clears the caller's IDs", map[string]string{"ArgumentsAreTheCallers": "Delete changed its argument"}, func(f *fake) {
		f.remove = func(ctx context.Context, ids []string) error {
			err := f.Memory.Delete(ctx, ids)
			clear(ids)
			return err
		}
	}},
	{"Load returns the Store's bytes", map[string]string{"LoadedIsTheCallers": "the Store's own bytes"}, func(f *fake) {
		f.onLoad(func(c activity.Checkpoint) activity.Checkpoint { return f.get(c.ID) })
	}},
	{"Load returns bytes that cannot be changed", map[string]string{"LoadedIsTheCallers": "are read-only"}, func(f *fake) {
		f.onLoad(readOnlyInput)
	}},
	{"Load reuses its buffer", map[string]string{"LoadedIsTheCallers": "the result of Load changed during later calls"}, func(f *fake) {
		f.onLoad(reuse())
	}},
	{"All yields the Store's bytes", map[string]string{"YieldedIsTheCallers": "the Store's own bytes"}, func(f *fake) {
		f.onAll(func(c activity.Checkpoint) activity.Checkpoint { return f.get(c.ID) })
	}},
	{"All yields bytes that cannot be changed", map[string]string{"YieldedIsTheCallers": "are read-only"}, func(f *fake) {
		f.onAll(readOnlyInput)
	}},
	{"All reuses its buffer", map[string]string{"YieldedIsTheCallers": "a yielded checkpoint changed during a Save"}, func(f *fake) {
		f.onAll(reuse())
	}},
}

// readOnlyInput gives c an Input in read-only memory, like that of a mapped file, if c is
// the checkpoint whose bytes the checks try to change.
func readOnlyInput(c activity.Checkpoint) activity.Checkpoint {
	const text = `{"file":"id-0000","version":3}` // the compiler keeps constants in read-only memory
	if string(c.Input) == text {
		c.Input = unsafe.Slice(unsafe.StringData(text), len(text))
	}
	return c
}

// reuse returns a function that copies every Input into the same buffer.
func reuse() func(activity.Checkpoint) activity.Checkpoint {
	var buffer []byte
	return func(c activity.Checkpoint) activity.Checkpoint {
		buffer = append(buffer[:0], c.Input...)
		c.Input = buffer
		return c
	}
}

var brokenDurability = []brokenStore{
	{"buffers until Close", map[string]string{"DurableSave": "not found", "AtomicWhenKilled": "reopened after a Save returned"}, func(f *fake) {
		f.reopen = func() activity.Store { return new(Memory) }
	}},
	{"writes a Save with the next", map[string]string{"DurableSave": "reopened", "Concurrent": "reopened"}, func(f *fake) {
		disk := f.Clone()
		f.save = func(ctx context.Context, batch []activity.Checkpoint) error {
			f.mu.Lock()
			disk = &Memory{checkpoints: maps.Clone(f.checkpoints)}
			f.mu.Unlock()
			return f.Memory.Save(ctx, batch)
		}
		f.reopen = func() activity.Store { return disk }
	}},
	{"loses all with a Delete", map[string]string{"DurableDelete": "0 times"}, func(f *fake) {
		disk := f.Clone()
		f.remove = func(ctx context.Context, ids []string) error {
			disk = new(Memory)
			return f.Memory.Delete(ctx, ids)
		}
		f.reopen = func() activity.Store { return disk }
	}},
	{"writes a Delete with the next Save", map[string]string{"DurableDelete": "want none"}, func(f *fake) {
		disk := f.Clone()
		f.save = func(ctx context.Context, batch []activity.Checkpoint) error {
			err := f.Memory.Save(ctx, batch)
			disk = f.Clone()
			return err
		}
		f.reopen = func() activity.Store { return disk }
	}},
	{"empties its file when it is closed", map[string]string{"ClosedKeeps": "reopened after Close"}, func(f *fake) {
		f.close = func() error {
			f.mu.Lock()
			f.checkpoints = nil
			f.mu.Unlock()
			return f.Memory.Close()
		}
	}},
	{"shows a file that it made for another Store", map[string]string{"AllOfNothing": "which is not stored"}, func(f *fake) {
		f.reopen = func() activity.Store {
			m := f.Clone()
			m.checkpoints = map[string]activity.Checkpoint{"other": {ID: "other"}}
			return m
		}
	}},
	{"writes half a batch when killed", map[string]string{"AtomicWhenKilled": "as a whole or not at all"}, func(f *fake) {
		var once, onceMore sync.Once
		half, reopened := make(chan struct{}), make(chan struct{})
		f.save = func(ctx context.Context, batch []activity.Checkpoint) error {
			if err := f.Memory.Save(ctx, batch[:len(batch)/2]); err != nil {
				return err
			}
			once.Do(func() {
				close(half)
				<-reopened
			})
			return f.Memory.Save(ctx, batch[len(batch)/2:])
		}
		f.reopen = func() activity.Store {
			<-half
			defer onceMore.Do(func() { close(reopened) })
			return f.Clone()
		}
	}},
	{"has half a batch durable", map[string]string{"AtomicWhenKilled": "as a whole or not at all"}, func(f *fake) {
		disk := new(Memory)
		f.save = func(ctx context.Context, batch []activity.Checkpoint) error {
			if err := disk.Save(ctx, batch[:len(batch)/2]); err != nil {
				return err
			}
			return f.Memory.Save(ctx, batch)
		}
		f.reopen = func() activity.Store { return disk.Clone() }
	}},
	{"shows a batch by halves", map[string]string{"AtomicForReaders": "saw part of the batch"}, func(f *fake) {
		var loads atomic.Int64
		f.load = func(ctx context.Context, id string) (activity.Checkpoint, bool, error) {
			defer loads.Add(1)
			return f.Memory.Load(ctx, id)
		}
		f.save = func(ctx context.Context, batch []activity.Checkpoint) error {
			if err := f.Memory.Save(ctx, batch[:len(batch)/2]); err != nil {
				return err
			}
			for seen := loads.Load(); loads.Load() < seen+9 && ctx.Err() == nil; {
				runtime.Gosched()
			}
			return f.Memory.Save(ctx, batch[len(batch)/2:])
		}
	}},
	{"shows a long batch by halves", map[string]string{"AtomicForReaders": "batches of 999: Load during a Save saw part"}, func(f *fake) {
		var loads atomic.Int64
		f.load = func(ctx context.Context, id string) (activity.Checkpoint, bool, error) {
			defer loads.Add(1)
			return f.Memory.Load(ctx, id)
		}
		f.save = func(ctx context.Context, batch []activity.Checkpoint) error {
			for part := range slices.Chunk(batch, 500) {
				if err := f.Memory.Save(ctx, part); err != nil {
					return err
				}
				for seen := loads.Load(); len(batch) > 500 && loads.Load() < seen+9 && ctx.Err() == nil; {
					runtime.Gosched()
				}
			}
			return nil
		}
	}},
	{"shows the later half of a batch first", map[string]string{"AtomicForReaders": "saw part of the batch"}, func(f *fake) {
		var loads atomic.Int64
		f.load = func(ctx context.Context, id string) (activity.Checkpoint, bool, error) {
			defer loads.Add(1)
			return f.Memory.Load(ctx, id)
		}
		f.save = func(ctx context.Context, batch []activity.Checkpoint) error {
			if err := f.Memory.Save(ctx, batch[len(batch)/2:]); err != nil {
				return err
			}
			for seen := loads.Load(); loads.Load() < seen+9 && ctx.Err() == nil; {
				runtime.Gosched()
			}
			return f.Memory.Save(ctx, batch[:len(batch)/2])
		}
	}},
	{"Load reads the Input of another moment", map[string]string{"ReadDuringSaves": "Load: ID \"a\" has the wrong Input"}, func(f *fake) {
		f.onLoad(f.inputOfNow)
	}},
	{"All reads the Input of another moment", map[string]string{"ReadDuringSaves": "All: ID \"a\" has the wrong Input"}, func(f *fake) {
		f.onAll(f.inputOfNow)
	}},
	{"leaves half a batch when canceled", map[string]string{"AtomicWhenCanceled": "as a whole or not at all"}, func(f *fake) {
		f.save = func(ctx context.Context, batch []activity.Checkpoint) error {
			if err := f.Memory.Save(context.WithoutCancel(ctx), batch[:len(batch)/2]); err != nil {
				return err
			}
			<-ctx.Done()
			return ctx.Err()
		}
	}},
	{"Save returns nil when canceled, and writes nothing", map[string]string{"AtomicWhenCanceled": "want one of [1]"}, func(f *fake) {
		f.save = func(ctx context.Context, batch []activity.Checkpoint) error {
			<-ctx.Done()
			return nil
		}
	}},
	{"a canceled Save is done after the next", map[string]string{"AtomicWhenCanceled": "that followed Saves whose contexts ended"}, func(f *fake) {
		f.save = func(ctx context.Context, batch []activity.Checkpoint) error {
			if batch[0].Sequence > 8 { // the last Save, whose context does not end
				return errors.Join(f.Memory.Save(ctx, batch), f.Memory.Save(ctx, oneBatch(8)))
			}
			<-ctx.Done()
			return ctx.Err()
		}
	}},
	{"a canceled Delete empties checkpoints", map[string]string{"DeleteWhenCanceled": "the wrong Details"}, func(f *fake) {
		f.remove = func(ctx context.Context, ids []string) error {
			<-ctx.Done()
			return errors.Join(f.empty(ids[:len(ids)/2]), ctx.Err())
		}
	}},
	{"a canceled Delete deletes other IDs too", map[string]string{"DeleteWhenCanceled": "0 times"}, func(f *fake) {
		f.remove = func(ctx context.Context, ids []string) error {
			<-ctx.Done()
			return errors.Join(f.Memory.Delete(context.WithoutCancel(ctx), append(ids, "stays")), ctx.Err())
		}
	}},
	{"Delete returns nil when canceled, and deletes nothing", map[string]string{"DeleteWhenCanceled": "which is not stored"}, func(f *fake) {
		f.remove = func(ctx context.Context, ids []string) error {
			<-ctx.Done()
			return nil
		}
	}},
	{"a canceled Delete is done after the next Save", map[string]string{"DeleteWhenCanceled": "after a Save that followed a Delete whose context ended"}, func(f *fake) {
		var late []string
		f.remove = func(ctx context.Context, ids []string) error {
			<-ctx.Done()
			late = ids
			return ctx.Err()
		}
		f.save = func(ctx context.Context, batch []activity.Checkpoint) error {
			return errors.Join(f.Memory.Save(ctx, batch), f.Memory.Delete(ctx, late))
		}
	}},
	{"keeps half a long batch before the ID that it refuses", map[string]string{"AtomicWhenRefused": "as a whole or not at all"}, func(f *fake) {
		f.save = func(ctx context.Context, batch []activity.Checkpoint) error {
			for part := range slices.Chunk(batch, 500) { // each part in its own transaction
				if slices.ContainsFunc(part, isOdd) {
					return errBroken
				}
				if err := f.Memory.Save(ctx, part); err != nil {
					return err
				}
			}
			return nil
		}
	}},
	{"keeps what came before the ID that it refuses", map[string]string{"AtomicWhenRefused": "after Save of a batch"}, func(f *fake) {
		f.save = func(ctx context.Context, batch []activity.Checkpoint) error {
			for _, c := range batch {
				if len(c.ID) > 1024 {
					return errBroken
				}
				if err := f.Memory.Save(ctx, []activity.Checkpoint{c}); err != nil {
					return err
				}
			}
			return nil
		}
	}},
	{"replaces, and then refuses", map[string]string{"AtomicWhenRefused": "the wrong Sequence"}, func(f *fake) {
		f.save = func(ctx context.Context, batch []activity.Checkpoint) error {
			if !slices.ContainsFunc(batch, func(c activity.Checkpoint) bool { return c.ID == "" }) {
				return f.Memory.Save(ctx, batch)
			}
			for _, c := range batch {
				if f.get(c.ID).ID != "" {
					if err := f.Memory.Save(ctx, []activity.Checkpoint{c}); err != nil {
						return err
					}
				}
			}
			return errBroken
		}
	}},
	{"skips a batch that it refuses", map[string]string{"AtomicWhenRefused": "Save returned nil, but the batch is not stored"}, func(f *fake) {
		f.save = func(ctx context.Context, batch []activity.Checkpoint) error {
			if slices.ContainsFunc(batch, isOdd) {
				return nil
			}
			return f.Memory.Save(ctx, batch)
		}
	}},
	{"skips the ID that it refuses and everything after it", map[string]string{"AtomicWhenRefused": "(error <nil>)"}, func(f *fake) {
		f.save = func(ctx context.Context, batch []activity.Checkpoint) error {
			for _, c := range batch {
				if c.ID == "" {
					return nil
				}
				if err := f.Memory.Save(ctx, []activity.Checkpoint{c}); err != nil {
					return err
				}
			}
			return nil
		}
	}},
}
