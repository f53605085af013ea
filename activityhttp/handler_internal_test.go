package activityhttp

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
	"weak"

	"github.com/seed-9da638b0/activity"
)

// collect collects garbage until done reports true. Cleanups run in a goroutine of the Go runtime.
func collect(t *testing.T, done func() bool) {
	t.Helper()
	for range 1000 {
		if done() {
			return
		}
		runtime.GC()
		runtime.Gosched()
	}
	t.Error("it is still referred to")
}

// When nobody refers to a Handler any more, then its subscription ends, and the Runtime keeps
// nothing of it.
func TestHandler_IsCollected(t *testing.T) {
	rt := activity.New(activity.Config{})
	h := Handler(rt, nil).(*handler)
	list := weak.Make(h.ended)
	h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil))
	h = nil
	collect(t, func() bool { return list.Value() == nil })
	runtime.KeepAlive(rt)
}

// A Runtime that nothing but its Handler's list knows is collected with the Handler.
func TestHandler_RuntimeIsCollected(t *testing.T) {
	rt := weak.Make(func() *activity.Runtime {
		rt := activity.New(activity.Config{})
		Handler(rt, nil).ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil))
		if err := rt.Run(context.Background(), activity.Options{}, func(activity.Context) error { return nil }); err != nil {
			t.Error(err)
		}
		return rt
	}())
	collect(t, func() bool { return rt.Value() == nil })
}

// A server that nobody uses any more is not kept by the Handler that has noted it.
func TestServers_AreCollected(t *testing.T) {
	h := Handler(activity.New(activity.Config{}), nil)
	server := weak.Make(func() *http.Server {
		server := &http.Server{}
		ctx := context.WithValue(t.Context(), http.ServerContextKey, server)
		h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(ctx, "GET", "/", nil))
		return server
	}())
	collect(t, func() bool { return server.Value() == nil })
	runtime.KeepAlive(h)
}

// When the last viewer has left, then nothing of what it has seen is kept.
func TestShared_KeepsNothing(t *testing.T) {
	var s shared
	s.join()
	s.join()
	s.get(func() *snapshot { return &snapshot{} })
	s.leave()
	if s.last == nil {
		t.Error("one viewer is left, and the snapshot is gone")
	}
	s.leave()
	if s.last != nil {
		t.Error("no viewer is left, and the snapshot is kept")
	}
}

// A viewer that leaves is no longer counted, and a server is noted once.
func TestLive_LeavesNothing(t *testing.T) {
	h := Handler(activity.New(activity.Config{}), nil).(*handler)
	ctx, cancel := context.WithCancel(context.WithValue(t.Context(), http.ServerContextKey, &http.Server{}))
	cancel()
	for range 3 {
		h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(ctx, "GET", "/live", nil))
	}
	if h.shared.viewers != 0 || h.shared.last != nil || len(h.servers.down) != 1 {
		t.Errorf("%d viewers, snapshot %v, %d servers", h.shared.viewers, h.shared.last, len(h.servers.down))
	}
}

// The list of ended activities is built anew only after another one has ended.
func TestEndedList(t *testing.T) {
	var l endedList
	if got := l.list(); len(got) != 0 {
		t.Errorf("got %v", got)
	}
	l.add(activity.Event{ID: "a"})
	one := l.list()
	if again := l.list(); &again[0] != &one[0] {
		t.Error("it was built twice")
	}
	l.add(activity.Event{ID: "b"})
	if two := l.list(); len(one) != 1 || len(two) != 2 || two[0].id != "b" || two[1].id != "a" {
		t.Errorf("got %v, and then %v", one, two)
	}
}

func TestShown(t *testing.T) {
	for s, want := range map[string]string{"a b": "a b", "é": "é", "": "", `"a"`: `"\"a\""`, `a"b`: `a"b`, "a\n": `"a\n"`, "\xff": `"\xff"`, "\u202e": `"\u202e"`} {
		if got := shown(s); got != want {
			t.Errorf("%q: got %s, want %s", s, got, want)
		}
	}
}

func TestDuration(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Second: "0 s", 0: "0 s", time.Microsecond: "0 ms", 999*time.Millisecond + 999: "999 ms", time.Second: "1 s", 59 * time.Second: "59 s",
		time.Minute: "1 min", 59*time.Minute + 59*time.Second: "59 min 59 s", time.Hour: "1 h", 47*time.Hour + 59*time.Minute: "47 h 59 min",
		48 * time.Hour: "2 d", 51 * time.Hour: "2 d 3 h",
	} {
		if got := duration(d); got != want {
			t.Errorf("%s: got %q, want %q", d, got, want)
		}
	}
}

func TestRate(t *testing.T) {
	for _, test := range []struct {
		n    int
		d    time.Duration
		want string
	}{
		{25, time.Second, "25/s"}, {99, 10 * time.Second, "9.9/s"}, {1, 10 * time.Second, "0.1/s"}, {1, 20 * time.Second, "3.0/min"}, {1, time.Hour, "1.0/h"},
	} {
		if got := rate(test.n, test.d); got != test.want {
			t.Errorf("%d in %s: got %q, want %q", test.n, test.d, got, test.want)
		}
	}
}

func TestClean(t *testing.T) {
	for _, test := range []struct{ s, want string }{
		{"", ""}, {"a\nb\tc", "a\nb\tc"}, {"\r\x00\u202e\xff", `\r\x00\u202e\xff`}, {"\xe4é世", `\xe4é世`}, {"12345678", "12345678"},
		{"123456789", "12345678… (cut: 9 bytes in all)"}, {"1234567é", "1234567… (cut: 9 bytes in all)"},
		{"12345世9", "12345世… (cut: 9 bytes in all)"}, {"1234567\xff\xff", `1234567\xff… (cut: 9 bytes in all)`}, {"1234\x80\x80\x80\x80\x80", `1234\x80\x80\x80\x80… (cut: 9 bytes in all)`},
	} {
		if got := clean(test.s, 8); got != test.want {
			t.Errorf("%q: got %q, want %q", test.s, got, test.want)
		}
	}
}

// An error whose methods panic still has a text.
func TestDescribe_Panics(t *testing.T) {
	text, stack := describe(panics{})
	if !strings.Contains(text, "panicked") || stack != "" {
		t.Errorf("got %q and %q", text, stack)
	}
	if text, stack = describe(&activity.PanicError{Value: "x", Stack: []byte("goroutine 1")}); text != "panic: x" || stack != "goroutine 1" {
		t.Errorf("got %q and %q", text, stack)
	}
	if text, stack = describe((*activity.TimeoutError)(nil)); text == "" || stack != "" {
		t.Errorf("got %q and %q", text, stack)
	}
}

type panics struct{}

func (panics) Error() string { panic("Error") }
func (panics) Unwrap() error { panic("Unwrap") }

// A slice makes a type that cannot be compared.
type uncomparable []int

func (uncomparable) Error() string { return "" }

func TestSame(t *testing.T) {
	a, b := io.EOF, error(uncomparable{})
	if !same(nil, nil) || !same(a, a) || same(a, nil) || same(nil, a) || same(a, io.ErrNoProgress) || same(b, b) || same(a, b) {
		t.Error("same is wrong")
	}
}

func TestDetailsText(t *testing.T) {
	long := strings.Repeat("é", 1100) // cut within a rune
	for _, test := range []struct{ details, want string }{
		{"", ""}, {"\x0217", "17"}, {"\x011\x03\"a\"", `1, "a"`}, {"\x09short", "damaged details of 6 bytes"}, {"\x80", "damaged details of 1 bytes"},
		{"\x01\xff", `\xff`}, {"\x00\x00", ", "},
		{"\x99\x11x" + long, "x" + long[:2046] + "… (cut: 2203 bytes in all)"},
	} {
		got := detailsText([]byte(test.details))
		if got != test.want || !utf8.ValidString(got) {
			t.Errorf("%q: got %q, want %q", test.details, got, test.want)
		}
	}
}
