package browsertest

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/chromedp/cdproto/accessibility"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"github.com/seed-9da638b0/activity"
)

// Given an open page, when an activity advances, then its bar moves. The focus and an open
// question stay meanwhile, also when the row changes and moves up. A row goes when its activity
// has ended.
func TestLive_BarMoves(t *testing.T) {
	w := newWorld(t, nil)
	w.stepper("first", 10)
	steps, fail := make(chan struct{}), make(chan struct{})
	opts := activity.Options{ID: "a", RetryPolicy: activity.RetryPolicy{InitialInterval: time.Hour}}
	w.start(opts, func(ctx activity.Context) error {
		return activity.Range(ctx, 0, 10, func(int) error {
			select {
			case <-steps:
				return nil
			case <-fail:
				return errors.New("boom")
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		})
	})
	w.open("")
	bar := row("a") + `.querySelector("progress")`
	if got := eval[float64](w, bar+".max"); got != 10 {
		t.Fatalf("the bar has the maximum %v", got)
	}
	const button = `tr[data-key="a"] button.danger`
	w.do(chromedp.Click(chromedp.CSS(`tr[data-key="a"] summary`)), chromedp.Focus(chromedp.CSS(button)))
	for n := 1; n <= 3; n++ {
		steps <- struct{}{}
		w.await(fmt.Sprintf("%s.value === %d", bar, n))
	}
	w.await(row("a") + `.innerText.includes("3 of 10")`)
	close(fail)
	w.await(`document.querySelector("#rows tr").dataset.key === "a" && ` + row("a") + `.innerText.includes("Retry now")`)
	if !eval[bool](w, `document.activeElement === document.querySelector('`+button+`') && document.activeElement.checkVisibility()`) {
		t.Errorf("the focus or the question is lost: %s", eval[string](w, `document.activeElement.outerHTML`))
	}
	w.await(`document.getElementById("alerts").innerText.includes("1 activity is failing.")`)
	if err := w.rt.Cancel("a", nil); err != nil {
		t.Fatal(err)
	}
	w.await(`document.querySelectorAll("#rows tr").length === 1 && document.getElementById("alerts").innerText === ""`)
	w.start(activity.Options{ID: "new"}, untilEnded)
	w.await(`document.querySelector("#rows tr:last-child .id").textContent === "new"`)
}

// Given an open stack in the list of those that have ended, when another activity ends, then the
// stack stays open in its own row, which moves down.
func TestLive_EndedStackStaysOpen(t *testing.T) {
	w := newWorld(t, nil)
	end := func(id string) {
		h := w.start(activity.Options{ID: id, RetryPolicy: activity.RetryPolicy{MaximumAttempts: 1}}, func(activity.Context) error { panic(id) })
		if _, err := h.Wait(t.Context()); err == nil {
			t.Errorf("%s has not failed", id)
		}
	}
	end("a")
	w.open("")
	const ids = `[...document.querySelectorAll("#ended .id")].map((id) => id.textContent).join()`
	w.await(ids + ` === "a"`)
	w.do(chromedp.Click(chromedp.CSS(`#ended summary`)), chromedp.Focus(chromedp.CSS(`#ended summary`)))
	want := []string{"a"}
	for _, id := range []string{"b", "c"} {
		end(id)
		want = slices.Insert(want, 0, id)
		w.await(ids + " === " + quote(strings.Join(want, ",")))
	}
	const open = `[...document.querySelectorAll("#ended details[open]")].map((d) => d.closest("tr").querySelector(".id").textContent).join()`
	if got := eval[string](w, open); got != "a" {
		t.Errorf("the open stacks are those of %q, want a", got)
	}
	if got := eval[string](w, `document.activeElement.closest("tr")?.querySelector(".id").textContent ?? ""`); got != "a" {
		t.Errorf("the focus is in the row of %q, want a", got)
	}
}

// Morph turns an element into the one it was given.
func TestLive_Morph(t *testing.T) {
	w := newWorld(t, nil)
	w.open("")
	wrong := eval[[]string](w, `(() => {
		const all = [
			'<div></div>', '<div class="a" title="b">x</div>', '<div class="b">y</div>', '<div><b>x</b>y<i>z</i></div>', '<div>y<i title="a">z</i></div>', '<div><b>x</b></div>',
			'<div><p data-key="1">x</p></div>', '<div><p data-key="3">y</p><p data-key="1">z</p></div>', '<div><p data-key="4"></p><p data-key="3"><b>y</b></p></div>',
			'<div><b>x</b><details><summary>s</summary><u>t</u></details></div>', '<div><details><summary>s</summary></details>z</div>',
		];
		const wrong = [];
		for (const a of all) for (const b of all) {
			const p = parse(a);
			morph(p, parse(b));
			if (p.outerHTML !== b) wrong.push(a + " to " + b + ": " + p.outerHTML);
		}
		return wrong;
	})()`)
	if len(wrong) > 0 {
		t.Error(strings.Join(wrong, "\n"))
	}
}

// Given hostile IDs, errors and stacks, then the browser shows them as text and runs nothing.
func TestPage_HostileTexts(t *testing.T) {
	w := newWorld(t, nil)
	hostile := []string{
		`<script>window.pwned = 1</script>`, `x"><img src=x onerror="window.pwned=1">`, `' onfocus='window.pwned=1' autofocus='`,
		`</td></tr></table><script>window.pwned=1</script>`, `javascript:window.pwned=1`,
	}
	for _, id := range hostile {
		w.start(activity.Options{ID: id, Name: id, RetryPolicy: activity.RetryPolicy{InitialInterval: time.Hour}}, func(ctx activity.Context) error {
			_ = ctx.Heartbeat(id)
			panic(errors.New(id))
		})
	}
	w.open("")
	for _, id := range hostile {
		r := row(url.QueryEscape(id))
		w.await(r + ` !== null && ` + r + `.querySelector("pre") !== null`)
		if got := eval[[]string](w, `[...`+r+`.querySelectorAll(".id, .name")].map((e) => e.textContent)`); got[0] != id || got[1] != id {
			t.Errorf("the row says %q", got)
		}
		if got := eval[string](w, r+`.querySelector(".failure").textContent`); got != "panic: "+id {
			t.Errorf("the failure says %q", got)
		}
		step := eval[string](w, r+`.querySelector("form").getAttribute("action")`)
		if u, err := url.Parse(step); err != nil || u.Query().Get("id") != id {
			t.Errorf("the form goes to %q", step)
		}
	}
	if eval[bool](w, `window.pwned !== undefined || document.querySelectorAll("#rows img, #rows script").length > 0`) {
		t.Error("a text has become HTML")
	}
	first := eval[string](w, `document.querySelector("#rows form[action^=pause]").getAttribute("action")`)
	w.do(chromedp.Navigate(w.url + strings.Replace(first, "pause", "stack", 1))) // it backs off: an error page
	w.forgive("409")
	if eval[bool](w, `window.pwned !== undefined`) || !strings.Contains(eval[string](w, `document.body.innerText`), "<script>window.pwned = 1</script>") {
		t.Error("the error page does not show the ID as text")
	}
}

// Cancel asks, and then cancels.
func TestSteer_Cancel(t *testing.T) {
	w := newWorld(t, nil)
	_, h := w.stepper("a/b?c", 10)
	other, _ := w.stepper("other", 10)
	w.open("?find=a/b")
	key := `tr[data-key="a%2Fb%3Fc"]`
	if eval[bool](w, `document.querySelector('`+key+` button.danger').checkVisibility()`) {
		t.Error("Cancel does not ask")
	}
	w.do(chromedp.Click(chromedp.CSS(key+` summary`)), chromedp.WaitVisible(chromedp.CSS(key+` button.danger`)))
	if s, ok := w.rt.Lookup("a/b?c"); !ok || s.State != activity.StateRunning {
		t.Errorf("it is %s before the answer", s.State)
	}
	w.do(chromedp.Click(chromedp.CSS(key + ` button.danger`)))
	if _, err := h.Wait(t.Context()); err == nil || !strings.Contains(err.Error(), "canceled over HTTP") {
		t.Errorf("it ended with %v", err)
	}
	w.await(`document.getElementById("ended").innerText.includes("a/b?c")`)
	if got := eval[string](w, `location.search`); got != "?find=a%2Fb" {
		t.Errorf("the page has the query %q", got)
	}
	other() // it still runs
}

// The keyboard alone is enough.
func TestSteer_Keyboard(t *testing.T) {
	w := newWorld(t, nil)
	w.stepper("a", 10)
	w.open("")
	w.do(chromedp.Focus(chromedp.CSS(`tr[data-key="a"] summary`)), chromedp.KeyEvent(kb.Tab), chromedp.KeyEvent(kb.Enter))
	w.await(row("a") + `.innerText.includes("paused")`)
}

// If its script does not run, the page shows the same, and its buttons work.
func TestSteer_WithoutScript(t *testing.T) {
	w := newWorld(t, func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/page.js" {
				rw.Header().Set("Content-Type", "text/javascript")
				return
			}
			h.ServeHTTP(rw, r)
		})
	})
	step, h := w.stepper("a", 10)
	step()
	w.do(chromedp.Navigate(w.url))
	w.await(row("a") + `.querySelector("progress").max === 10`)
	w.do(chromedp.Click(chromedp.CSS(`tr[data-key="a"] summary`)), chromedp.Click(chromedp.CSS(`tr[data-key="a"] button.danger`)))
	if _, err := h.Wait(t.Context()); err == nil {
		t.Error("it was not canceled")
	}
	w.await(`document.getElementById("live").textContent === "" && document.getElementById("ended").innerText.includes("canceled")`)
}

// A form of another site does nothing.
func TestSteer_CrossSite(t *testing.T) {
	w := newWorld(t, nil)
	step, _ := w.stepper("a", 10)
	var target atomic.Value
	evil := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		rw.Header().Set("Content-Type", "text/html")
		fmt.Fprintf(rw, `<form method="post" action="%s"><button>Win a prize</button></form>`, target.Load())
	}))
	defer evil.Close()
	for _, path := range []string{"cancel?id=a", "api/cancel?id=a"} {
		target.Store(w.url + path)
		w.do(chromedp.Navigate(strings.Replace(evil.URL, "127.0.0.1", "localhost", 1)), chromedp.Click(chromedp.CSS("button")))
		w.await(`document.body && document.body.innerText.includes("from another site")`)
		w.forgive("403")
	}
	w.forgive("favicon.ico") // of the other site
	step()                   // it still runs
}

// Given 1,000 activities, then an update of one row touches nothing but its changed texts, and an
// update that repeats what is there touches nothing.
func TestLive_ThousandRows(t *testing.T) {
	w := newWorld(t, nil)
	for i := range 1000 {
		w.stepper(fmt.Sprintf("a%03d", i), 10)
	}
	w.open("")
	w.await(`rows.children.length === 100 && document.getElementById("pager").innerText.includes("1 to 100 of 1000")`)
	got := eval[[]string](w, `(() => {
		const html = Object.fromEntries([...rows.children].map((r) => [r.dataset.key, r.outerHTML]));
		const keys = Object.keys(html);
		const touched = (update) => {
			const o = new MutationObserver(() => {});
			o.observe(document, {subtree: true, childList: true, attributes: true, characterData: true});
			apply(update);
			const where = (n) => (n.nodeType === Node.ELEMENT_NODE ? n : n.parentElement).closest("[data-key], [id]");
			return o.takeRecords().map((m) => m.type + " in " + (where(m.target).dataset.key ?? where(m.target).id)).join(", ");
		};
		return [
			touched({Rows: html, Order: keys}),
			touched({Cells: {a042: {Value: "7", Progress: "7 of 10"}}}),
			touched({Rows: {a043: html.a043.replace(">running<", ">paused<")}}),
			touched({Order: keys.slice(1)}),
		];
	})()`)
	want := []string{"", "attributes in a042, childList in a042", "characterData in a043", "childList in rows"}
	if !slices.Equal(got, want) {
		t.Errorf("the updates have touched %q, want %q", got, want)
	}
}

// When the connection is lost, and the server answers with errors for a time, then the page says
// so, connects anew, and is live again.
func TestLive_Reconnects(t *testing.T) {
	var down atomic.Bool
	refused := make(chan struct{}, 1000)
	w := newWorld(t, func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			if down.Load() {
				http.Error(rw, "bad gateway", http.StatusBadGateway)
				refused <- struct{}{}
				return
			}
			h.ServeHTTP(rw, r)
		})
	})
	step, _ := w.stepper("a", 10)
	w.open("")
	down.Store(true)
	w.server.CloseClientConnections()
	w.await(`document.getElementById("live").textContent === "not live, trying again"`)
	<-refused // with a status after which the browser does not connect anew by itself
	step()
	down.Store(false)
	w.await(`document.getElementById("live").textContent === "live" && ` + row("a") + `.querySelector("progress").value === 1`)
	w.forgive("ERR_") // the browser's note of the lost connection
	w.forgive("502")
}

// A scene is what the screenshots show.
func scene(w *world) {
	options := func(id, name string) activity.Options {
		return activity.Options{ID: id, Name: name, HeartbeatTimeout: 10 * time.Minute, RetryPolicy: activity.RetryPolicy{MaximumAttempts: 5, InitialInterval: 10 * time.Minute}}
	}
	blocked := options("orders/2026-11", "sync orders")
	blocked.HeartbeatTimeout, blocked.MaxAbandoned = 100*time.Millisecond, activity.NoOverlap
	hang := make(chan struct{})
	w.t.Cleanup(func() { close(hang) })
	w.start(blocked, func(ctx activity.Context) error {
		_ = ctx.Heartbeat(1709)
		<-hang
		return ctx.Err()
	})
	w.start(options("mail 8812", "send mail"), func(activity.Context) error {
		return errors.New("dial tcp 10.1.2.3:25: connect: connection refused")
	})
	w.start(options("thumbnails", "render"), func(activity.Context) error { panic("index out of range [12] with length 12") })
	for i, done := range []int{640, 212, 918} {
		w.start(options(fmt.Sprintf("customers-%d.csv", i+1), "import file"), func(ctx activity.Context) error {
			return activity.Range(ctx, 0, 1000, func(row int) error {
				if row < done {
					return ctx.Sleep(time.Millisecond)
				}
				return ctx.Sleep(time.Second)
			})
		})
	}
	w.start(options("inbox", "poll"), func(ctx activity.Context) error {
		_ = ctx.Heartbeat(map[string]any{"cursor": "0x8f2c", "seen": 48213})
		return untilEnded(ctx)
	})
	w.start(options("<b>&\u202e", "odd names are text"), untilEnded)
	w.start(options("archive", "move"), untilEnded)
	for i := range 3 {
		w.start(options(fmt.Sprintf("report %d", i+1), "report"), func(ctx activity.Context) error { return ctx.Sleep(time.Duration(i+1) * 50 * time.Millisecond) })
	}
	last := options("invoice 77", "print")
	last.RetryPolicy.MaximumAttempts = 1
	w.start(last, func(ctx activity.Context) error {
		_ = ctx.Sleep(300 * time.Millisecond)
		return errors.New("no paper")
	})
	if err := w.rt.Pause("archive"); err != nil {
		w.t.Error(err)
	}
	w.open("")
	w.await(`document.querySelectorAll("#ended tbody tr").length === 4 && document.querySelectorAll("tr.blocked").length === 1 && ` + row("customers-3.csv") + `.querySelector("progress").value > 917`)
	w.do(chromedp.Click(chromedp.CSS(`tr[data-key="thumbnails"] details.ask > summary`)))
}

// The texts have enough contrast in both color schemes (WCAG AA), each control has a name, and
// nothing is wider than a phone. With -screenshots, the pages are written to files.
func TestPage_LegibleScreenshots(t *testing.T) {
	w := newWorld(t, nil)
	scene(w)
	for _, look := range []struct {
		name, scheme  string
		width, height int64
		mobile        bool
	}{
		{"light", "light", 1280, 1000, false}, {"dark", "dark", 1280, 1000, false},
		{"phone", "light", 390, 844, true}, {"phone-dark", "dark", 390, 844, true},
	} {
		viewport := []chromedp.EmulateViewportOption{}
		if look.mobile {
			viewport = append(viewport, chromedp.EmulateMobile)
		}
		command(w, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: look.scheme}}})
		w.do(chromedp.EmulateViewport(look.width, look.height, viewport...))
		eval[any](w, `window.scrollTo(0, 0)`)
		if poor := eval[[]string](w, contrast); len(poor) > 0 {
			t.Errorf("%s: poor contrast: %q", look.name, poor)
		}
		if wide := eval[float64](w, `document.documentElement.scrollWidth`); int64(wide) > look.width {
			t.Errorf("%s: the page is %v pixels wide", look.name, wide)
		}
		if *screenshots != "" {
			image, err := run(w, chromedp.CaptureScreenshot())
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(*screenshots, look.name+".png"), image, 0o666); err != nil {
				t.Error(err)
			}
		}
	}
	controls := 0
	for _, n := range command(w, accessibility.GetFullAXTree, accessibility.GetFullAXTreeParams{}).Nodes {
		if n.Ignored || n.Role == nil {
			continue
		}
		switch role := string(n.Role.Value); role {
		case `"button"`, `"link"`, `"textbox"`, `"combobox"`, `"progressbar"`, `"DisclosureTriangle"`:
			controls++
			if n.Name == nil || len(n.Name.Value) <= len(`""`) {
				t.Errorf("a %s has no name", role)
			}
		}
	}
	if controls < 30 {
		t.Errorf("only %d controls were found", controls)
	}
}

// contrast returns the texts whose contrast with what is behind them is below 4.5.
const contrast = `(() => {
	const light = (color) => {
		const [r, g, b] = color.match(/[\d.]+/g).map((c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
		return 0.2126 * r + 0.7152 * g + 0.0722 * b;
	};
	const behind = (e) => {
		for (; e; e = e.parentElement) {
			const color = getComputedStyle(e).backgroundColor;
			if (!/^rgba\(.*, 0\)$/.test(color)) return color;
		}
	};
	const poor = [];
	const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
	while (walker.nextNode()) {
		const e = walker.currentNode.parentElement;
		if (!walker.currentNode.data.trim() || !e.checkVisibility()) continue;
		const [a, b] = [light(getComputedStyle(e).color), light(behind(e))].sort((x, y) => y - x);
		if ((a + 0.05) / (b + 0.05) < 4.5) poor.push(walker.currentNode.data.trim() + " " + getComputedStyle(e).color + " " + behind(e));
	}
	return poor;
})()`
