package activityhttp_test

import (
	"bufio"
	"cmp"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/benbjohnson/clock"

	"github.com/seed-9da638b0/activity"
	"github.com/seed-9da638b0/activity/activityhttp"
)

// steps is an activity that does a step each interval.
func steps(interval time.Duration, n int) func(activity.Context) error {
	return func(ctx activity.Context) error {
		return activity.Range(ctx, 0, n, func(int) error { return ctx.Sleep(interval) })
	}
}

// Given a viewer, when one of two activities makes progress, then the viewer gets the whole page
// once, and after that only the texts that have changed.
func TestLive_OnlyChanges(t *testing.T) {
	bubble(t, activity.Config{}, control, func(t *testing.T, rt *activity.Runtime, h http.Handler) {
		quick := job("quick")
		quick.HeartbeatTimeout = time.Minute
		start(t, rt, quick, steps(9900*time.Millisecond, 100))
		start(t, rt, job("waits"), untilEnded)
		v := watch(t, h, "", false)
		first := v.take()
		if len(first) != 1 || len(first[0].Parts) != 4 || len(first[0].Rows) != 2 || len(first[0].Cells) != 0 {
			t.Fatalf("the first update is %+v", first)
		}
		checkDiff(t, "order", first[0].Order, []string{"quick", "waits"})
		pass(999 * time.Millisecond)
		checkDiff(t, "updates before 1 s", len(v.take()), 0)
		pass(time.Millisecond)
		all := v.take()
		if len(all) != 1 {
			t.Fatalf("at 1 s there are the updates %+v", all)
		}
		checkDiff(t, "cells at 1 s", all[0].Cells, map[string]map[string]string{
			"quick": {"Age": "1 s", "Beat": "silent for 1 s of 1 min"}, "waits": {"Age": "1 s"},
		})
		pass(9 * time.Second)
		all = v.take()
		last := all[len(all)-1]
		checkDiff(t, "cells at 10 s", last.Cells, map[string]map[string]string{
			"quick": {"Age": "10 s", "Beat": "silent for 0 s of 1 min", "Value": "1", "Progress": "1 of 100", "Rate": "0.1/s, 16 min 20 s left"},
			"waits": {"Age": "10 s"},
		})
		for _, u := range all {
			if len(u.Parts)+len(u.Rows) > 0 || u.Order != nil {
				t.Errorf("nothing but texts has changed, and there was the update %+v", u)
			}
		}
	})
}

// Given a viewer, when an activity starts, is paused, fails and ends, then its row is sent anew,
// and the order when it has changed.
func TestLive_RowsAndOrder(t *testing.T) {
	bubble(t, activity.Config{}, control, func(t *testing.T, rt *activity.Runtime, h http.Handler) {
		v := watch(t, h, "?find=a", false)
		first := v.take()
		if len(first) != 1 || first[0].Order == nil || len(first[0].Order) != 0 {
			t.Fatalf("the first update is %+v", first)
		}
		next := func() update {
			t.Helper()
			pass(250 * time.Millisecond)
			all := v.take()
			if len(all) != 1 {
				t.Fatalf("the updates are %+v", all)
			}
			return all[0]
		}
		start(t, rt, job("a1"), untilEnded)
		u := next()
		checkDiff(t, "order", u.Order, []string{"a1"})
		contains(t, u.Rows["a1"], `<tr role="row" data-key="a1"`, ">running<", ">Pause<")
		contains(t, u.Parts["counts"], "<dt>running</dt><dd>1</dd>")
		contains(t, u.Parts["pager"], "1 to 1 of 1")

		opts := job("a2")
		opts.RetryPolicy.InitialInterval = time.Hour
		start(t, rt, opts, func(activity.Context) error { return errBoom })
		u = next()
		checkDiff(t, "order", u.Order, []string{"a2", "a1"})
		contains(t, u.Rows["a2"], ">boom<", ">Retry now<")
		contains(t, u.Parts["alerts"], "1 activity is failing.")
		if u.Rows["a1"] != "" {
			t.Error("the row of a1 has not changed")
		}

		if err := rt.Pause("a1"); err != nil {
			t.Fatal(err)
		}
		u = next()
		contains(t, u.Rows["a1"], ">paused<", ">Unpause<")
		lacks(t, u.Rows["a1"], ">Pause<")
		if u.Order != nil || u.Parts["alerts"] != "" {
			t.Errorf("the update is %+v", u)
		}

		if err := rt.Cancel("a2", nil); err != nil {
			t.Fatal(err)
		}
		u = next()
		checkDiff(t, "order", u.Order, []string{"a1"})
		contains(t, u.Parts["ended"], ">a2<")
		contains(t, u.Parts["alerts"], `<ul id="alerts"`)
		if err := rt.Cancel("a1", nil); err != nil {
			t.Fatal(err)
		}
		if u = next(); u.Order == nil || len(u.Order) != 0 {
			t.Errorf("the order is %v, want an empty one", u.Order)
		}

		start(t, rt, job("b"), untilEnded) // the filter hides it
		if u = next(); u.Order != nil || len(u.Rows) > 0 {
			t.Errorf("the update is %+v", u)
		}
	})
}

// Given attempts that change no number on the page, then the numbers are not sent again.
func TestLive_CountsOnlyIfShown(t *testing.T) {
	bubble(t, activity.Config{}, nil, func(t *testing.T, rt *activity.Runtime, h http.Handler) {
		opts := job("a")
		opts.RetryPolicy.InitialInterval, opts.RetryPolicy.BackoffCoefficient = 100*time.Millisecond, 1
		start(t, rt, opts, func(activity.Context) error { return errBoom })
		v := watch(t, h, "?find=none", false)
		pass(5 * time.Second)
		last := ""
		for _, u := range v.take() {
			counts, sent := u.Parts["counts"]
			if sent && counts == last {
				t.Errorf("the same numbers are sent again: %s", counts)
			}
			if sent {
				last = counts
			}
		}
	})
}

// Given an activity that makes progress every millisecond, then a viewer gets four updates a second.
func TestLive_FourUpdatesASecond(t *testing.T) {
	bubble(t, activity.Config{}, nil, func(t *testing.T, rt *activity.Runtime, h http.Handler) {
		start(t, rt, job("a"), steps(time.Millisecond, 1_000_000))
		pass(60 * time.Millisecond) // a viewer may come at any time
		v := watch(t, h, "", false)
		v.take()
		pass(10 * time.Second)
		all := v.take()
		if len(all) != 40 {
			t.Errorf("there were %d updates in 10 s, want 40", len(all))
		}
		for i, u := range all {
			if i > 0 && u.after-all[i-1].after != 250*time.Millisecond {
				t.Errorf("update %d came %s after the one before", i, u.after-all[i-1].after)
			}
			if u.bytes > 200 {
				t.Errorf("an update of one activity has %d bytes", u.bytes)
			}
		}
	})
}

// A countingClock counts how often it is read, which is at least once whenever the Runtime is asked.
type countingClock struct {
	clock.Clock
	reads atomic.Int64
}

func (c *countingClock) Now() time.Time {
	c.reads.Add(1)
	return c.Clock.Now()
}

// Given five viewers that have come at different times, then the Runtime is asked as often as for
// one. Given none, then it is not asked at all.
func TestLive_ViewersShare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &countingClock{Clock: clock.New()}
		rt := activity.New(activity.Config{Clock: c, Logger: quiet})
		h := activityhttp.Handler(rt, nil)
		in := func(d time.Duration) int64 {
			before := c.reads.Load()
			pass(d)
			return c.reads.Load() - before
		}
		if n := in(time.Hour); n != 0 {
			t.Errorf("without viewers the Runtime was asked: %d", n)
		}
		first := watch(t, h, "", false)
		one := in(10 * time.Second)
		if one < 40 || one%40 != 0 {
			t.Fatalf("for one viewer the clock was read %d times in 40 ticks", one)
		}
		var viewers []*viewer
		for i := range 4 {
			pass(60 * time.Millisecond)
			viewers = append(viewers, watch(t, h, fmt.Sprintf("?find=%d", i), false))
		}
		if five := in(10 * time.Second); five != one {
			t.Errorf("for five viewers the clock was read %d times, and for one %d times", five, one)
		}
		for _, v := range append(viewers, first) {
			v.gone()
		}
		if n := in(time.Hour); n != 0 {
			t.Errorf("after the viewers had gone the Runtime was asked: %d", n)
		}
	})
}

// Given a viewer that takes nothing, then another one is still served.
func TestLive_SlowViewer(t *testing.T) {
	bubble(t, activity.Config{}, nil, func(t *testing.T, rt *activity.Runtime, h http.Handler) {
		start(t, rt, job("a"), steps(100*time.Millisecond, 1_000_000))
		slow := watch(t, h, "", true)
		v := watch(t, h, "", false)
		pass(10 * time.Second)
		if n := len(v.take()); n != 41 {
			t.Errorf("the other viewer got %d updates, want 41", n)
		}
		// It reads on, and gets what it was sent first, and then what is new by now.
		go slow.read()
		pass(250 * time.Millisecond)
		all := slow.take()
		if len(all) < 2 || len(all) > 3 {
			t.Fatalf("the slow viewer got %d updates", len(all))
		}
		checkDiff(t, "cells", all[1].Cells["a"]["Progress"], "102 of 1000000")
	})
}

// Given a viewer of an activity that fails again and again, then it gets each error.
func TestLive_NewFailure(t *testing.T) {
	bubble(t, activity.Config{}, nil, func(t *testing.T, rt *activity.Runtime, h http.Handler) {
		opts := job("a")
		opts.RetryPolicy = activity.RetryPolicy{InitialInterval: time.Second, BackoffCoefficient: 1}
		start(t, rt, opts, func(ctx activity.Context) error { return fmt.Errorf("boom %d", ctx.Info().Attempt) })
		v := watch(t, h, "", false)
		contains(t, v.take()[0].Rows["a"], ">boom 1<")
		pass(250 * time.Millisecond)
		for n := 2; n < 5; n++ {
			pass(time.Second)
			last := ""
			for _, u := range v.take() {
				last = cmp.Or(u.Rows["a"], last)
			}
			contains(t, last, fmt.Sprintf(">boom %d<", n))
		}
	})
}

// A stream ends when the context of its request ends, also if the connection is still open.
func TestLive_ContextEnds(t *testing.T) {
	bubble(t, activity.Config{}, nil, func(t *testing.T, rt *activity.Runtime, h http.Handler) {
		v := watch(t, h, "", false)
		v.leave()
		<-v.done
	})
}

// When nothing changes, then the stream is kept open with comments.
func TestLive_Ping(t *testing.T) {
	bubble(t, activity.Config{}, nil, func(t *testing.T, rt *activity.Runtime, h http.Handler) {
		v := watch(t, h, "", false)
		pass(time.Minute)
		if n := len(v.take()); n != 1 || v.pings != 4 {
			t.Errorf("there were %d updates and %d comments in a minute, want 1 and 4", n, v.pings)
		}
		checkDiff(t, "Content-Type", v.head.Get("Content-Type"), "text/event-stream")
	})
}

// A noFlush is a ResponseWriter of middleware that hides the server's.
type noFlush struct{ w http.ResponseWriter }

func (w noFlush) Header() http.Header         { return w.w.Header() }
func (w noFlush) Write(p []byte) (int, error) { return w.w.Write(p) }
func (w noFlush) WriteHeader(status int)      { w.w.WriteHeader(status) }

func TestLive_CannotStream(t *testing.T) {
	bubble(t, activity.Config{}, nil, func(t *testing.T, rt *activity.Runtime, h http.Handler) {
		w := httptest.NewRecorder()
		h.ServeHTTP(noFlush{w}, httptest.NewRequest("GET", "/live", nil))
		if w.Code != http.StatusNotImplemented {
			t.Errorf("got %d: %s", w.Code, w.Body)
		}
	})
}

// A network is a net.Listener in a bubble.
type network struct {
	conns chan net.Conn
	down  chan struct{}
}

func (n *network) Accept() (net.Conn, error) {
	select {
	case c := <-n.conns:
		return c, nil
	case <-n.down:
		return nil, net.ErrClosed
	}
}

func (n *network) Close() error {
	close(n.down)
	return nil
}

func (n *network) Addr() net.Addr { return &net.UnixAddr{} }

// serve serves h with server in a bubble, and returns a client.
func serve(server *http.Server, h http.Handler) (client *http.Client) {
	n := &network{make(chan net.Conn), make(chan struct{})}
	server.Handler = h
	go server.Serve(n)
	return &http.Client{Transport: &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
		in, out := net.Pipe()
		n.conns <- out
		return in, nil
	}}}
}

// lines reads a stream, and counts its updates.
func lines(t *testing.T, client *http.Client, updates *atomic.Int64) (ended chan error) {
	t.Helper()
	resp, err := client.Get("http://host/live")
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatal(resp, err)
	}
	ended = make(chan error, 1)
	go func() {
		defer resp.Body.Close()
		for in := bufio.NewReader(resp.Body); ; {
			line, err := in.ReadString('\n')
			if err != nil {
				ended <- err
				return
			}
			if strings.HasPrefix(line, "data: ") {
				updates.Add(1)
			}
		}
	}()
	return ended
}

// Given two viewers, when the server is shut down, then their streams end at once, and Shutdown
// does not wait for them. It may be called twice. Another server of the same Handler serves on.
func TestLive_ServerShutdown(t *testing.T) {
	bubble(t, activity.Config{}, nil, func(t *testing.T, rt *activity.Runtime, h http.Handler) {
		start(t, rt, job("a"), steps(time.Second, 1000))
		var server, other http.Server
		client, otherClient := serve(&server, h), serve(&other, h)
		var updates, otherUpdates atomic.Int64
		first, second := lines(t, client, &updates), lines(t, client, &updates)
		third := lines(t, otherClient, &otherUpdates)
		pass(10 * time.Second)
		before := otherUpdates.Load()
		begin := time.Now()
		if err := server.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
		if took := time.Since(begin); took > time.Second {
			t.Errorf("Shutdown took %s", took)
		}
		for _, ended := range []chan error{first, second} {
			if err := <-ended; err != io.EOF {
				t.Errorf("the stream ended with %v", err)
			}
		}
		if err := server.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
		pass(10 * time.Second)
		if otherUpdates.Load() <= before {
			t.Error("the other server's viewer gets nothing any more")
		}
		otherClient.CloseIdleConnections()
		if err := other.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
		<-third
	})
}

// Given a server with ReadTimeout and WriteTimeout, then a stream outlives both, over HTTP/1 and
// HTTP/2, whether it has much to say or nothing.
func TestLive_ServerTimeouts(t *testing.T) {
	for _, test := range []struct{ http2, busy bool }{{false, false}, {false, true}, {true, false}, {true, true}} {
		bubble(t, activity.Config{}, nil, func(t *testing.T, rt *activity.Runtime, h http.Handler) {
			if test.busy {
				start(t, rt, job("a"), steps(time.Second, 1000))
			}
			server := http.Server{ReadTimeout: 5 * time.Second, WriteTimeout: 5 * time.Second}
			if test.http2 {
				server.Protocols = &http.Protocols{}
				server.Protocols.SetUnencryptedHTTP2(true)
			}
			client := serve(&server, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if (r.ProtoMajor == 2) != test.http2 {
					t.Errorf("the protocol is %s", r.Proto)
				}
				h.ServeHTTP(w, r)
			}))
			client.Transport.(*http.Transport).Protocols = server.Protocols
			var updates atomic.Int64
			ended := lines(t, client, &updates)
			pass(time.Minute)
			if n := updates.Load(); (n >= 61) != test.busy || n < 1 {
				t.Errorf("%v: there were %d updates in a minute", test, n)
			}
			select {
			case err := <-ended:
				t.Errorf("%v: the stream has ended: %v", test, err)
			default:
				go client.CloseIdleConnections()
				if err := server.Shutdown(t.Context()); err != nil {
					t.Error(err)
				}
				<-ended
			}
		})
	}
}

// Given a viewer whose connection takes nothing any more, then its stream is given up.
func TestLive_DeadConnection(t *testing.T) {
	bubble(t, activity.Config{}, nil, func(t *testing.T, rt *activity.Runtime, h http.Handler) {
		start(t, rt, job("a"), steps(time.Second, 1000))
		var serving atomic.Int64
		var server http.Server
		client := serve(&server, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			serving.Add(1)
			defer serving.Add(-1)
			h.ServeHTTP(w, r)
		}))
		resp, err := client.Get("http://host/live")
		if err != nil {
			t.Fatal(err)
		}
		// The client's transport has a buffer, and then nothing is read.
		pass(10 * time.Minute)
		if serving.Load() != 0 {
			t.Error("the stream is still being served")
		}
		resp.Body.Close()
		server.Close()
	})
}

// Given 1,000 activities of which one changes, then an update holds that one alone.
func TestLive_OneOfAThousand(t *testing.T) {
	bubble(t, activity.Config{MaxConcurrent: 1}, nil, func(t *testing.T, rt *activity.Runtime, h http.Handler) {
		start(t, rt, job("changes"), steps(100*time.Millisecond, 1_000_000))
		for i := range 999 {
			if _, err := rt.Start(t.Context(), job(fmt.Sprint("waits", i)), untilEnded); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		v := watch(t, h, "", false)
		if first := v.take(); len(first) != 1 || len(first[0].Rows) != 100 {
			t.Fatalf("the first update has %d rows", len(first[0].Rows))
		}
		pass(750 * time.Millisecond)
		all := v.take()
		for _, u := range all {
			if len(u.Cells) != 1 || len(u.Rows)+len(u.Parts) > 0 || u.Cells["changes"] == nil {
				t.Errorf("the update is %+v", u)
			}
		}
		if len(all) != 3 || !slices.IsSortedFunc(all, func(a, b update) int { return int(a.after - b.after) }) {
			t.Errorf("there were %d updates, want 3", len(all))
		}
	})
}
