package browsertest

import (
	"context"
	"flag"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/log"
	cdpruntime "github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"

	"github.com/seed-9da638b0/activity"
	"github.com/seed-9da638b0/activity/activityhttp"
)

var (
	browser     = flag.String("browser", "", `"required" fails the tests if there is no chromium, instead of skipping them`)
	screenshots = flag.String("screenshots", "", "directory to which the screenshots are written")
)

// patience is how long a test waits for something that must happen. It is far more than that
// takes on a slow machine.
const patience = 2 * time.Minute

// chromium returns the path of the browser.
func chromium(t *testing.T) string {
	t.Helper()
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	if *browser == "required" {
		t.Fatal("there is no chromium in PATH")
	}
	t.Skip("there is no chromium in PATH: on Debian, apt-get install chromium")
	return ""
}

// A world is a Runtime, a server of its page below a prefix, and a browser.
type world struct {
	t      *testing.T
	rt     *activity.Runtime
	server *httptest.Server
	url    string          // of the page
	ctx    context.Context // of the browser's tab

	mu       sync.Mutex
	messages []string // of the browser's console
}

// newWorld starts everything. wrap may be nil.
func newWorld(t *testing.T, wrap func(http.Handler) http.Handler) *world {
	t.Helper()
	path := chromium(t)
	w := &world{t: t, rt: activity.New(activity.Config{Logger: slog.New(slog.DiscardHandler)})}
	h := activityhttp.Handler(w.rt, &activityhttp.Options{Control: true})
	if wrap != nil {
		h = wrap(h)
	}
	mux := http.NewServeMux()
	mux.Handle("/debug/activities/", http.StripPrefix("/debug/activities", h))
	w.server = httptest.NewServer(mux)
	w.url = w.server.URL + "/debug/activities/"

	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(path), chromedp.WSURLReadTimeout(patience))
	if os.Geteuid() == 0 {
		options = append(options, chromedp.NoSandbox) // root cannot use the sandbox
	}
	ctx, stopAllocator := chromedp.NewExecAllocator(context.Background(), options...)
	ctx, stopTab := chromedp.NewContext(ctx)
	w.ctx = ctx
	t.Cleanup(func() {
		stopTab()
		stopAllocator()
		if err := w.rt.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
		w.server.CloseClientConnections()
		w.server.Close()
		w.mu.Lock()
		defer w.mu.Unlock()
		for _, m := range w.messages {
			t.Errorf("the browser says: %s", m)
		}
	})
	if err := chromedp.Listen(ctx, w.listen); err != nil { // starts the browser
		t.Fatal(err)
	}
	command(w, log.Enable, cdp.Empty{})
	command(w, cdpruntime.Enable, cdp.Empty{})
	return w
}

// listen notes what the browser complains about, such as violations of the policy.
func (w *world) listen(event any) {
	text := ""
	switch e := event.(type) {
	case *log.EventEntryAdded:
		text = string(e.Entry.Source) + ": " + e.Entry.Text + " " + e.Entry.URL
	case *cdpruntime.EventConsoleAPICalled:
		text = "console." + string(e.Type)
		for _, arg := range e.Args {
			text += " " + string(arg.Value)
		}
	case *cdpruntime.EventExceptionThrown:
		text = "exception: " + e.ExceptionDetails.Text
		if e.ExceptionDetails.Exception != nil {
			text += " " + e.ExceptionDetails.Exception.Description
		}
	default:
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.messages = append(w.messages, text)
}

// forgive removes the messages that contain text.
func (w *world) forgive(text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	kept := w.messages[:0]
	for _, m := range w.messages {
		if !strings.Contains(m, text) {
			kept = append(kept, m)
		}
	}
	w.messages = kept
}

// run runs an action in the browser.
func run[T any](w *world, action chromedp.Action[T]) (T, error) {
	ctx, cancel := context.WithTimeout(w.ctx, patience)
	defer cancel()
	return chromedp.Run(ctx, action)
}

// do runs actions in the browser.
func (w *world) do(actions ...chromedp.Action[chromedp.Void]) {
	w.t.Helper()
	if _, err := run(w, chromedp.Steps(actions...)); err != nil {
		w.t.Fatal(err)
	}
}

// command runs a command of the browser's protocol.
func command[P, R any](w *world, c cdp.Command[P, R], params P) R {
	w.t.Helper()
	result, err := run(w, func(ctx context.Context, t *chromedp.Target) (R, error) { return cdp.Call(ctx, t, c, params) })
	if err != nil {
		w.t.Fatal(err)
	}
	return result
}

// eval returns the value of a JavaScript expression.
func eval[T any](w *world, expression string) T {
	w.t.Helper()
	v, err := run(w, chromedp.Evaluate[T](expression))
	if err != nil {
		w.t.Fatalf("%s: %v", expression, err)
	}
	return v
}

// await waits until a JavaScript expression is true, also on the page that a form leads to.
func (w *world) await(expression string) {
	w.t.Helper()
	for deadline := time.Now().Add(patience); ; {
		_, err := run(w, chromedp.Poll[bool](expression, chromedp.WithPollingInterval(20*time.Millisecond), chromedp.WithPollingTimeout(0)))
		switch {
		case err == nil:
			return
		case time.Now().After(deadline):
			w.t.Fatalf("waiting for %s: %v; the page says: %s", expression, err, eval[string](w, `document.body.innerText`))
		}
	}
}

// open opens the page, and waits until it is live.
func (w *world) open(query string) {
	w.t.Helper()
	w.do(chromedp.Navigate(w.url + query))
	w.await(`document.getElementById("live").textContent === "live"`)
}

func (w *world) start(opts activity.Options, fn func(activity.Context) error) *activity.Handle[struct{}] {
	w.t.Helper()
	h, err := w.rt.Start(context.Background(), opts, fn)
	if err != nil {
		w.t.Fatal(err)
	}
	return h
}

// stepper starts an activity that does a step whenever step is called.
func (w *world) stepper(id string, total int) (step func(), h *activity.Handle[struct{}]) {
	w.t.Helper()
	steps := make(chan struct{})
	h = w.start(activity.Options{ID: id, Name: "stepper"}, func(ctx activity.Context) error {
		return activity.Range(ctx, 0, total, func(int) error {
			select {
			case <-steps:
				return nil
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		})
	})
	return func() { steps <- struct{}{} }, h
}

func untilEnded(ctx activity.Context) error {
	<-ctx.Done()
	return context.Cause(ctx)
}

// quote returns s as a JavaScript string, if it is ASCII.
func quote(s string) string { return strconv.QuoteToASCII(s) }

// row returns a JavaScript expression for the row with that Key.
func row(key string) string {
	return `document.querySelector("tr[data-key=` + quote(`"` + key + `"`)[1:] + `)`
}
