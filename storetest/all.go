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
			step("All in a loop that is left early")
			seen := 0
			err := each(s.All(s.ctx), func(activity.Checkpoint) bool {
				seen++
				return seen < n
			})
			if err != nil {
				return err
			}
			if seen != n {
				return fmt.Errorf("All: it yielded %d of %d checkpoints, want %d before the loop is left", seen, len(cs), n)
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
		step("All after earlier loops were left early")
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
		return fmt.Errorf("the second loop over the result of All, after a Save and a Delete: %w", err)
	}
	return nil
}

// inBody calls act in the body of a loop over All. It checks that All yields each of stay
// exactly once, so act must not change those. act must wrap its calls in within.
func inBody(s *subject, stay []activity.Checkpoint, act func(nth int, c activity.Checkpoint) error) error {
	return unstuck(func(step func(string)) error {
		var got []activity.Checkpoint
		var failed error
		step("All")
		err := each(s.All(s.ctx), func(c activity.Checkpoint) bool {
			got = append(got, c)
			failed = act(len(got)-1, c)
			step("All, after the loop body called other methods,")
			return failed == nil
		})
		err = errors.Join(failed, err)
		if errors.Is(err, errHangs) {
			return fmt.Errorf("in the body of a loop over All (All must hold no lock or transaction while it yields): %w", err)
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

// allBodySaves saves every checkpoint again in each loop body, including those not yielded yet.
func allBodySaves(s *subject) error {
	cs := checkpoints(s.fewer(50, 20), 1)
	if err := save(s.ctx, s, cs...); err != nil {
		return err
	}
	ids, newest := idsOf(cs), cs
	err := inBody(s, nil, func(nth int, c activity.Checkpoint) error {
		if !slices.Contains(ids, c.ID) {
			return fmt.Errorf("All: it yielded ID %s, which is not stored", brief(c.ID))
		}
		if err := differ(c, checkpoint(c.ID, c.Sequence)); err != nil {
			return fmt.Errorf("All: it yielded a mix of two Saves: %w", err)
		}
		if nth == 3*len(cs) {
			return errors.New("All: it yields each checkpoint again whenever the loop body saves it, so the loop never ends")
		}
		newest = checkpoints(len(cs), uint64(nth)+2) // All may yield the new version as well
		return within("Save", func() error {
			return errors.Join(save(s.ctx, s, newest...), loads(s.ctx, s, newest[nth%len(cs)]))
		})
	})
	if err != nil {
		return err
	}
	if err := holds(s.ctx, s, newest...); err != nil {
		return fmt.Errorf("after a loop over All whose body saved every checkpoint again: %w", err)
	}
	return nil
}

// allBodySavesMuch makes a Store grow during the loop. A Store that maps its file must
// then map it again.
func allBodySavesMuch(s *subject) error {
	cs := checkpoints(s.fewer(20, 6), 1)
	if err := save(s.ctx, s, cs...); err != nil {
		return err
	}
	large := noise(2 << 20)
	var added []activity.Checkpoint
	err := inBody(s, cs, func(nth int, _ activity.Checkpoint) error {
		if nth >= len(cs) {
			return nil // All may yield the added checkpoints as well
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
		return fmt.Errorf("the loop body deletes each checkpoint that it gets: %w", err)
	}
	return holds(s.ctx, s)
}

// allBodyChangesOthers deletes and saves checkpoints other than the one that was yielded.
func allBodyChangesOthers(s *subject) error {
	cs := checkpoints(s.fewer(60, 30), 1)
	var stay, goes []activity.Checkpoint // alternating IDs
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
		// From both ends in turn, so that some are before the loop's place and some after it.
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
		return fmt.Errorf("the loop body deletes and saves other checkpoints: %w", err)
	}
	left := slices.DeleteFunc(append(cs, added...), func(c activity.Checkpoint) bool { return slices.Contains(gone, c.ID) })
	return holds(s.ctx, s, left...)
}
