package activityhttp_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/benbjohnson/clock"

	"github.com/seed-9da638b0/activity"
	"github.com/seed-9da638b0/activity/activityhttp"
	"github.com/seed-9da638b0/activity/storetest"
)

// A failingStore is a Store that fails while fails is set.
type failingStore struct {
	activity.Store
	fails atomic.Bool
}

func (s *failingStore) err() error {
	if s.fails.Load() {
		return errors.New("disk full \u202e")
	}
	return nil
}

func (s *failingStore) Save(ctx context.Context, batch []activity.Checkpoint) error {
	if err := s.err(); err != nil {
		return err
	}
	return s.Store.Save(ctx, batch)
}

func (s *failingStore) Delete(ctx context.Context, ids []string) error {
	if err := s.err(); err != nil {
		return err
	}
	return s.Store.Delete(ctx, ids)
}

func (s *failingStore) All(ctx context.Context) iter.Seq2[activity.Checkpoint, error] {
	if err := s.err(); err != nil {
		return func(yield func(activity.Checkpoint, error) bool) { yield(activity.Checkpoint{}, err) }
	}
	return s.Store.All(ctx)
}

// decode decodes what GET path serves.
func decode[T any](t *testing.T, h http.Handler, path string) (v T) {
	t.Helper()
	if err := json.Unmarshal([]byte(get(t, h, path)), &v); err != nil {
		t.Fatal(err)
	}
	return v
}

type statuses struct {
	Stats      map[string]any
	Activities []struct {
		Key    string
		Status map[string]any
	}
}

// Given activities with IDs of any bytes, then the API lists them, each ID is found by its Key,
// and an ID that is not there is not found.
func TestAPI_Activities(t *testing.T) {
	bubble(t, activity.Config{}, nil, func(t *testing.T, rt *activity.Runtime, h http.Handler) {
		empty := get(t, h, "/api/activities")
		contains(t, empty, `"Activities":[]`)
		for _, id := range hostile {
			start(t, rt, activity.Options{ID: id, Name: "job"}, func(ctx activity.Context) error {
				_ = ctx.Heartbeat(17)
				return untilEnded(ctx)
			})
		}
		start(t, rt, activity.Options{Name: "made up"}, untilEnded)
		all := decode[statuses](t, h, "/api/activities")
		if all.Stats["Running"] != float64(len(hostile)+1) || len(all.Activities) != len(hostile)+1 {
			t.Fatalf("got %v", all)
		}
		for i, a := range all.Activities {
			if i < len(hostile) {
				checkDiff(t, "key", a.Key, url.QueryEscape(hostile[i]))
				checkDiff(t, "details", a.Status["Details"], any(float64(17)))
			}
			one := decode[struct {
				Key    string
				Status map[string]any
			}](t, h, "/api/activities?id="+a.Key)
			checkDiff(t, "the activity", one.Status["ID"], a.Status["ID"])
			checkDiff(t, "its key", one.Key, a.Key)
			if stack := get(t, h, "/api/stack?id="+a.Key); len(stack) < 100 {
				t.Errorf("the stack is %q", stack)
			}
			pass(time.Minute) // stacks are dumped seldom
		}
		if made := decode[statuses](t, h, "/api/activities?name=made&state=running"); len(made.Activities) != 1 {
			t.Errorf("the filter found %v", made)
		}
		contains(t, do(t, h, http.StatusNotFound, "GET", "/api/activities?id=none").Body.String(), `{"Error":"activity \"none\": no activity with this ID is running"}`)
	})
}

// With 10,000 activities the API lists all.
func TestAPI_TenThousand(t *testing.T) {
	bubble(t, activity.Config{MaxConcurrent: 1}, nil, func(t *testing.T, rt *activity.Runtime, h http.Handler) {
		for i := range 10_000 {
			if _, err := rt.Start(t.Context(), job(fmt.Sprint(i)), untilEnded); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		if n := len(decode[statuses](t, h, "/api/activities?page=2").Activities); n != 10_000 {
			t.Errorf("there are %d activities", n)
		}
	})
}

func TestAPI_Checkpoints(t *testing.T) {
	bubble(t, activity.Config{Store: &storetest.Memory{}}, nil, func(t *testing.T, rt *activity.Runtime, h http.Handler) {
		contains(t, get(t, h, "/api/checkpoints"), `{"Checkpoints":[]}`)
		opts := job("a\xff")
		opts.RetryPolicy.MaximumAttempts = 1
		start(t, rt, opts, func(activity.Context) error { return errBoom })
		pass(time.Second)
		contains(t, get(t, h, "/api/checkpoints"), `{"Checkpoints":[{"Key":"a%FF","Checkpoint":{"ID":"a\ufffd","Name":"job","State":"failed"`, `"LastFailure":"boom"`)
	})
}

// A tornStore is a Store whose All yields one checkpoint and then an error.
type tornStore struct{ *storetest.Memory }

func (tornStore) All(context.Context) iter.Seq2[activity.Checkpoint, error] {
	return func(yield func(activity.Checkpoint, error) bool) {
		_ = yield(activity.Checkpoint{ID: "a", Name: "job", State: activity.CheckpointFailed}, nil) &&
			yield(activity.Checkpoint{}, errBoom)
	}
}

func (tornStore) Load(context.Context, string) (activity.Checkpoint, bool, error) {
	return activity.Checkpoint{ID: "a", Name: "job", State: activity.CheckpointFailed}, true, nil
}

// Given a Store that fails after it has yielded a checkpoint, then that one is sent already, and
// the connection is aborted, so that nobody takes the part for the whole.
func TestAPI_CheckpointsTorn(t *testing.T) {
	bubble(t, activity.Config{Store: tornStore{&storetest.Memory{}}}, nil, func(t *testing.T, rt *activity.Runtime, h http.Handler) {
		w := httptest.NewRecorder()
		func() {
			defer func() { checkDiff(t, "panic", recover() == http.ErrAbortHandler, true) }()
			h.ServeHTTP(w, httptest.NewRequest("GET", "/api/checkpoints", nil))
		}()
		checkDiff(t, "status", w.Code, http.StatusOK)
		contains(t, w.Body.String(), `{"Checkpoints":[{"Key":"a"`)
		lacks(t, w.Body.String(), "]")
		do(t, h, http.StatusServiceUnavailable, "GET", "/stored") // the Store can be read again
	})
}

// Given 100 checkpoints of 1 MiB, when they are served, then little of them is in memory at once.
func TestAPI_CheckpointsStream(t *testing.T) {
	store := &storetest.Memory{}
	bubble(t, activity.Config{Store: store}, nil, func(t *testing.T, rt *activity.Runtime, h http.Handler) {
		var batch []activity.Checkpoint
		for i := range 100 {
			batch = append(batch, activity.Checkpoint{ID: fmt.Sprint(i), Name: "job", State: activity.CheckpointFailed, Input: []byte(`"` + strings.Repeat("x", 1<<20) + `"`)})
		}
		if err := store.Save(t.Context(), batch); err != nil {
			t.Fatal(err)
		}
		var w sizes
		h.ServeHTTP(&w, httptest.NewRequest("GET", "/api/checkpoints", nil))
		if w.all < 100<<20 || w.largest > 2<<20 {
			t.Errorf("%d bytes were written, and up to %d at once", w.all, w.largest)
		}
	})
}

// sizes is an http.ResponseWriter that notes how much is written.
type sizes struct {
	header       http.Header
	all, largest int
}

func (s *sizes) WriteHeader(int) {}

func (s *sizes) Header() http.Header {
	if s.header == nil {
		s.header = http.Header{}
	}
	return s.header
}

func (s *sizes) Write(p []byte) (int, error) {
	s.all += len(p)
	s.largest = max(s.largest, len(p))
	return len(p), nil
}

// A stuckStore is a Store whose All waits until it is released, and ignores its context.
type stuckStore struct {
	*storetest.Memory
	calls   atomic.Int32
	release chan struct{}
}

func (s *stuckStore) All(ctx context.Context) iter.Seq2[activity.Checkpoint, error] {
	s.calls.Add(1)
	<-s.release
	return s.Memory.All(ctx)
}

// Given a Store that hangs, when many ask for its checkpoints, then one of them waits for it, and
// the others end with their clients.
func TestAPI_CheckpointsHang(t *testing.T) {
	store := &stuckStore{Memory: &storetest.Memory{}}
	bubble(t, activity.Config{Store: store, StoreTimeout: time.Minute}, nil, func(t *testing.T, rt *activity.Runtime, h http.Handler) {
		store.release = make(chan struct{})
		var ended atomic.Int32
		for _, path := range []string{"/stored", "/stored", "/api/checkpoints", "/stored"} {
			go func() {
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(ctx, "GET", path, nil))
				ended.Add(1)
			}()
			pass(time.Second / 4)
		}
		pass(10 * time.Second)
		checkDiff(t, "requests that have ended", ended.Load(), int32(3))
		checkDiff(t, "calls of All", store.calls.Load(), int32(1))
		close(store.release)
		synctest.Wait()
		checkDiff(t, "requests that have ended", ended.Load(), int32(4))
		contains(t, get(t, h, "/api/checkpoints"), `{"Checkpoints":[]}`)
	})
}

// Given details that cannot be encoded, then the answer says why.
func TestAPI_CannotEncode(t *testing.T) {
	bubble(t, activity.Config{MaxDetailsSize: 1 << 20}, nil, func(t *testing.T, rt *activity.Runtime, h http.Handler) {
		start(t, rt, job("deep"), func(ctx activity.Context) error {
			var v any = 1
			for range 10_000 {
				v = []any{v}
			}
			if err := ctx.Heartbeat(v); err != nil {
				t.Error(err)
			}
			return untilEnded(ctx)
		})
		contains(t, do(t, h, http.StatusInternalServerError, "GET", "/api/activities").Body.String(), `{"Error":"`)
	})
}

// A Runtime is healthy until it is shut down, blocked, or its Store has failed for more than a minute.
func TestHealthz(t *testing.T) {
	healthy := func(t *testing.T, h http.Handler) {
		t.Helper()
		checkDiff(t, "healthz", get(t, h, "/healthz"), "ok\n")
	}
	sick := func(t *testing.T, h http.Handler, why string) {
		t.Helper()
		checkDiff(t, "healthz", do(t, h, http.StatusServiceUnavailable, "GET", "/healthz").Body.String(), why)
		contains(t, get(t, h, "/"), why[:len(why)-1])
	}
	const stopped = "The Runtime takes no new activities: Drain or Shutdown was called.\n"
	t.Run("Shutdown", func(t *testing.T) {
		bubble(t, activity.Config{}, nil, func(t *testing.T, rt *activity.Runtime, h http.Handler) {
			healthy(t, h)
			if err := rt.Shutdown(t.Context()); err != nil {
				t.Fatal(err)
			}
			sick(t, h, stopped)
		})
	})
	t.Run("Drain", func(t *testing.T) {
		bubble(t, activity.Config{}, nil, func(t *testing.T, rt *activity.Runtime, h http.Handler) {
			start(t, rt, job("a"), untilEnded)
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			if err := rt.Drain(ctx); err == nil {
				t.Fatal("nothing is left")
			}
			sick(t, h, stopped)
		})
	})
	t.Run("blocked", func(t *testing.T) {
		bubble(t, activity.Config{}, nil, func(t *testing.T, rt *activity.Runtime, h http.Handler) {
			hang := make(chan struct{})
			opts := job("a")
			opts.HeartbeatTimeout, opts.MaxAbandoned = time.Second, activity.NoOverlap
			start(t, rt, opts, func(ctx activity.Context) error {
				if ctx.Info().Attempt == 1 {
					<-hang
				}
				return activity.Idle(ctx, time.Hour)
			})
			pass(time.Second - 1)
			healthy(t, h)
			pass(1)
			sick(t, h, "1 activity is blocked: a function of an earlier attempt still runs.\n")
			close(hang)
			synctest.Wait()
			healthy(t, h)
		})
	})
	t.Run("Store", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			mock := clock.NewMock() // the minute is the Runtime's
			store := &failingStore{Store: &storetest.Memory{}}
			rt := activity.New(activity.Config{Clock: mock, Store: store, Logger: quiet})
			h := activityhttp.Handler(rt, nil)
			opts := job("a")
			opts.RetryPolicy.InitialInterval = time.Hour
			fail := make(chan struct{})
			start(t, rt, opts, func(activity.Context) error {
				<-fail
				return errBoom
			})
			add := func(d time.Duration) {
				mock.Add(d)
				synctest.Wait()
			}
			store.fails.Store(true)
			close(fail)
			synctest.Wait()
			for rt.Stats().StoreFailingSince.IsZero() {
				add(time.Millisecond)
			}
			add(time.Minute - mock.Now().Sub(rt.Stats().StoreFailingSince))
			healthy(t, h)
			add(1)
			sick(t, h, "The Store has failed for 1 min.\n")
			store.fails.Store(false)
			for range 10 {
				add(time.Second)
			}
			healthy(t, h)
			if err := rt.Cancel("a", nil); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			if err := rt.Shutdown(t.Context()); err != nil {
				t.Fatal(err)
			}
		})
	})
	t.Run("HEAD", func(t *testing.T) {
		bubble(t, activity.Config{}, nil, func(t *testing.T, rt *activity.Runtime, h http.Handler) {
			w := httptest.NewRecorder()
			h.ServeHTTP(w, httptest.NewRequest("HEAD", "/healthz", nil))
			checkDiff(t, "status", w.Code, http.StatusOK)
		})
	})
}
