package storetest

import (
	"errors"
	"fmt"
	"slices"

	"github.com/seed-9da638b0/activity"
)

func allOfNothing(s *subject) error {
	if err := holds(s.ctx, s); err != nil {
		return err
	}
	if err := holds(s.ctx, s.reopen()); err != nil {
		return fmt.Errorf("reopened: %w", err)
	}
	return nil
}

func allOfMany(s *subject) error {
	many := checkpoints(s.fewer(3000, 600), 1)
	for batch := range slices.Chunk(many, 300) {
		if err := save(s.ctx, s, batch...); err != nil {
			return err
		}
	}
	if err := holds(s.ctx, s, many...); err != nil {
		return err
	}
	return holds(s.ctx, s.reopen(), many...)
}

func allLeftEarly(s *subject) error {
	cs := checkpoints(10, 1)
	if err := save(s.ctx, s, cs...); err != nil {
		return err
	}
	return unstuck(func(step func(string)) error {
		for n := 1; n < len(cs); n++ {
			step("All, whose loop is left early,")
			seen := 0
			err := each(s.All(s.ctx), func(activity.Checkpoint) bool {
				seen++
				return seen < n
			})
			if err != nil {
				return err
			}
			if seen != n {
				return fmt.Errorf("All: it yields %d of %d checkpoints, and the loop was to be left after %d", seen, len(cs), n)
			}
		}
		step("Save after loops over All were left early")
		c := checkpoint(cs[0].ID, 2)
		if err := save(s.ctx, s, c); err != nil {
			return err
		}
		step("Delete after loops over All were left early")
		if err := remove(s.ctx, s, cs[1].ID); err != nil {
			return err
		}
		step("All after other loops over it were left early")
		return holds(s.ctx, s, append(cs[2:], c)...)
	})
}

func allAgain(s *subject) error {
	cs := checkpoints(10, 1)
	if err := save(s.ctx, s, cs[1:]...); err != nil {
		return err
	}
	all := s.All(s.ctx)
	if err := yields(all, cs[1:]); err != nil {
		return err
	}
	if err := each(all, func(activity.Checkpoint) bool { return false }); err != nil {
		return err
	}
	if err := errors.Join(save(s.ctx, s, cs[0]), remove(s.ctx, s, cs[1].ID)); err != nil {
		return err
	}
	if err := yields(all, append(cs[:1:1], cs[2:]...)); err != nil {
		return fmt.Errorf("the same loop again, after a Save and a Delete: %w", err)
	}
	return nil
}

// inBody runs act in the body of a loop over All, and checks that each of stay,
// which act leaves alone, is yielded once. act wraps its calls in within.
func inBody(s *subject, stay []activity.Checkpoint, act func(nth int, c activity.Checkpoint) error) error {
	return unstuck(func(step func(string)) error {
		var got []activity.Checkpoint
		var failed error
		step("All")
		err := each(s.All(s.ctx), func(c activity.Checkpoint) bool {
			got = append(got, c)
			failed = act(len(got)-1, c)
			step("All, after the body of its loop has called other methods,")
			return failed == nil
		})
		err = errors.Join(failed, err)
		if errors.Is(err, errHangs) {
			return fmt.Errorf("in the body of a loop over All, which must hold no lock nor transaction while it yields: %w", err)
		}
		if err != nil {
			return fmt.Errorf("in the body of a loop over All: %w", err)
		}
		return yielded(got, stay, true)
	})
}

func allBodyLoads(s *subject) error {
	cs := checkpoints(10, 1)
	if err := save(s.ctx, s, cs...); err != nil {
		return err
	}
	return inBody(s, cs, func(nth int, c activity.Checkpoint) error {
		return within("Load", func() error {
			return errors.Join(loads(s.ctx, s, c), loads(s.ctx, s, cs[(nth+5)%len(cs)]))
		})
	})
}

// allBodySaves saves everything again in each body, also what is yet to be yielded.
func allBodySaves(s *subject) error {
	cs := checkpoints(s.fewer(50, 20), 1)
	if err := save(s.ctx, s, cs...); err != nil {
		return err
	}
	ids, newest := idsOf(cs), cs
	err := inBody(s, nil, func(nth int, c activity.Checkpoint) error {
		if !slices.Contains(ids, c.ID) {
			return fmt.Errorf("All: it yields ID %s, which is not stored", brief(c.ID))
		}
		if err := differ(c, checkpoint(c.ID, c.Sequence)); err != nil {
			return fmt.Errorf("All: it mixes two Saves: %w", err)
		}
		if nth == 3*len(cs) {
			return errors.New("All: it yields again and again what the body saves again, and never ends")
		}
		newest = checkpoints(len(cs), uint64(nth)+2) // All may yield what was saved again
		return within("Save", func() error {
			return errors.Join(save(s.ctx, s, newest...), loads(s.ctx, s, newest[nth%len(cs)]))
		})
	})
	if err != nil {
		return err
	}
	if err := holds(s.ctx, s, newest...); err != nil {
		return fmt.Errorf("after a loop over All that saved each again: %w", err)
	}
	return nil
}

// allBodySavesMuch is for Stores that map their file: it has to grow under the
// loop.
func allBodySavesMuch(s *subject) error {
	cs := checkpoints(s.fewer(20, 6), 1)
	if err := save(s.ctx, s, cs...); err != nil {
		return err
	}
	large := noise(2 << 20)
	var added []activity.Checkpoint
	err := inBody(s, cs, func(nth int, _ activity.Checkpoint) error {
		if nth >= len(cs) {
			return nil // what was added may be yielded as well
		}
		c := checkpoint(fmt.Sprint("large-", nth), 1)
		c.Details = large
		added = append(added, c)
		return within("Save of 2 MiB", func() error { return save(s.ctx, s, c) })
	})
	if err != nil {
		return err
	}
	return holds(s.ctx, s, append(cs, added...)...)
}

func allBodyDeletes(s *subject) error {
	cs := checkpoints(s.fewer(50, 20), 1)
	if err := save(s.ctx, s, cs...); err != nil {
		return err
	}
	err := inBody(s, cs, func(_ int, c activity.Checkpoint) error {
		return within("Delete", func() error {
			return errors.Join(remove(s.ctx, s, c.ID), lacks(s.ctx, s, c.ID))
		})
	})
	if err != nil {
		return fmt.Errorf("each is deleted when it has been yielded: %w", err)
	}
	return holds(s.ctx, s)
}

// allBodyChangesOthers deletes and saves neighbors of what is yielded.
func allBodyChangesOthers(s *subject) error {
	cs := checkpoints(s.fewer(60, 30), 1)
	var stay, goes []activity.Checkpoint // in turns
	for i, c := range cs {
		if i%2 == 0 {
			stay = append(stay, c)
		} else {
			goes = append(goes, c)
		}
	}
	if err := save(s.ctx, s, cs...); err != nil {
		return err
	}
	var added []activity.Checkpoint
	var gone []string
	err := inBody(s, stay, func(nth int, c activity.Checkpoint) error {
		if nth >= len(goes) {
			return nil
		}
		// From both ends, so that it is before and behind where the loop is.
		id := goes[nth/2].ID
		if nth%2 == 1 {
			id = goes[len(goes)-1-nth/2].ID
		}
		before, behind := checkpoint(fmt.Sprint(c.ID[:len(c.ID)-1], " ", nth), 1), checkpoint(fmt.Sprint(c.ID, "-", nth), 1)
		gone, added = append(gone, id), append(added, before, behind)
		return within("Delete, then Save", func() error {
			if err := remove(s.ctx, s, id); err != nil {
				return err
			}
			return save(s.ctx, s, before, behind)
		})
	})
	if err != nil {
		return fmt.Errorf("others are deleted and saved meanwhile: %w", err)
	}
	left := slices.DeleteFunc(append(cs, added...), func(c activity.Checkpoint) bool { return slices.Contains(gone, c.ID) })
	return holds(s.ctx, s, left...)
}
