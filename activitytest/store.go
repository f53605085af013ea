package activitytest

import (
	"context"
	"iter"

	"github.com/seed-9da638b0/activity"
)

// A store is the World's Memory during one life. After the life's end, calls wait until the
// body is over. Then Save and Delete do nothing, and Load and All return errOver.
type store struct{ life *life }

// do calls f under World.mu, so that a crash comes either before or after it.
func (s *store) do(f func(m activity.Store) error) error {
	w := s.life.w
	w.mu.Lock()
	if !s.life.dead && !w.ended {
		defer w.mu.Unlock()
		return f(w.memory)
	}
	w.mu.Unlock()
	<-s.life.over
	return nil
}

func (s *store) Load(ctx context.Context, id string) (cp activity.Checkpoint, found bool, err error) {
	err = errOver
	_ = s.do(func(m activity.Store) error {
		cp, found, err = m.Load(ctx, id)
		return nil
	})
	return cp, found, err
}

func (s *store) Save(ctx context.Context, batch []activity.Checkpoint) error {
	return s.do(func(m activity.Store) error { return m.Save(ctx, batch) })
}

func (s *store) Delete(ctx context.Context, ids []string) error {
	return s.do(func(m activity.Store) error { return m.Delete(ctx, ids) })
}

func (s *store) All(ctx context.Context) iter.Seq2[activity.Checkpoint, error] {
	return func(yield func(activity.Checkpoint, error) bool) {
		var all []activity.Checkpoint
		err := errOver
		_ = s.do(func(m activity.Store) error {
			err = nil
			for cp, e := range m.All(ctx) {
				if err = e; err != nil {
					break
				}
				all = append(all, cp)
			}
			return nil
		})
		for _, cp := range all {
			if !yield(cp, nil) {
				return
			}
		}
		if err != nil {
			yield(activity.Checkpoint{}, err)
		}
	}
}
