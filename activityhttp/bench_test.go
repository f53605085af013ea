//go:build linux || darwin

package activityhttp_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/seed-9da638b0/activity"
	"github.com/seed-9da638b0/activity/activityhttp"
)

// BenchmarkViewer measures what one open page costs beside 1,000 activities, each of which makes
// progress once a second. With N iterations it runs N seconds without a viewer, and N seconds with
// one. The metrics are shares of one core. Run it with -benchtime=20x.
func BenchmarkViewer(b *testing.B) {
	rt := activity.New(activity.Config{Logger: quiet})
	h := activityhttp.Handler(rt, control)
	const n = 1000
	for i := range n {
		opts := activity.Options{ID: fmt.Sprint("import ", i), Name: "import", HeartbeatTimeout: time.Minute}
		_, err := rt.Start(b.Context(), opts, func(ctx activity.Context) error {
			if err := ctx.Sleep(time.Duration(i) * time.Second / n); err != nil { // not all at one instant
				return err
			}
			return steps(time.Second, 1_000_000)(ctx)
		})
		if err != nil {
			b.Fatal(err)
		}
	}
	defer rt.Shutdown(context.Background())
	time.Sleep(time.Second)
	runtime.GC()
	window := time.Duration(b.N) * time.Second
	begin := cpuTime(b)
	time.Sleep(window)
	alone := cpuTime(b) - begin
	w := &counter{header: http.Header{}}
	ctx, cancel := context.WithTimeout(b.Context(), window)
	defer cancel()
	h.ServeHTTP(w, httptest.NewRequestWithContext(ctx, "GET", "/live", nil))
	watched := cpuTime(b) - begin - alone
	percent := func(d time.Duration) float64 { return 100 * d.Seconds() / window.Seconds() }
	b.ReportMetric(percent(alone), "%core-alone")
	b.ReportMetric(percent(watched), "%core-watched")
	b.ReportMetric(percent(watched-alone), "%core-viewer")
	b.ReportMetric(float64(w.bytes)/window.Seconds()/1000, "kB/s")
	b.ReportMetric(0, "ns/op") // it is always 2 s
}

// A counter is a ResponseWriter that counts bytes.
type counter struct {
	header http.Header
	bytes  int
}

func (c *counter) Header() http.Header { return c.header }
func (c *counter) WriteHeader(int)     {}
func (c *counter) Flush()              {}

func (c *counter) Write(p []byte) (int, error) {
	c.bytes += len(p)
	return len(p), nil
}

// cpuTime returns the CPU time that the process has used.
func cpuTime(b *testing.B) time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// BenchmarkRun measures what the list of ended activities costs each of them.
func BenchmarkRun(b *testing.B) {
	for _, handlers := range []int{0, 1} {
		b.Run(fmt.Sprintf("handlers=%d", handlers), func(b *testing.B) {
			rt := activity.New(activity.Config{Logger: quiet})
			var kept []http.Handler
			for range handlers {
				kept = append(kept, activityhttp.Handler(rt, nil))
			}
			b.ReportAllocs()
			for b.Loop() {
				if err := rt.Run(b.Context(), activity.Options{}, func(activity.Context) error { return nil }); err != nil {
					b.Fatal(err)
				}
			}
			runtime.KeepAlive(kept)
		})
	}
}

// BenchmarkPage measures one load of the page, with 10,000 activities.
func BenchmarkPage(b *testing.B) {
	rt := activity.New(activity.Config{Logger: quiet})
	h := activityhttp.Handler(rt, control)
	for i := range 10_000 {
		if _, err := rt.Start(b.Context(), job(fmt.Sprint(i)), untilEnded); err != nil {
			b.Fatal(err)
		}
	}
	defer rt.Shutdown(context.Background())
	w := &counter{header: http.Header{}}
	for b.Loop() {
		h.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
	}
	b.ReportMetric(float64(w.bytes)/float64(b.N), "B/page")
}
