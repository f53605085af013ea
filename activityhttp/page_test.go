package activityhttp_test

import (
	"errors"
	"fmt"
	"html"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/benbjohnson/clock"

	"github.com/seed-9da638b0/activity"
	"github.com/seed-9da638b0/activity/activityhttp"
	"github.com/seed-9da638b0/activity/storetest"
)

// Given a Range that was resumed, when 10 s have passed, then the page shows its progress, its
// rate in this attempt, and the time left.
func TestPage_Range(t *testing.T) {
	bubble(t, activity.Config{}, nil, func(t *testing.T, rt *activity.Runtime, h http.Handler) {
		opts := job("a/b")
		opts.HeartbeatTimeout = 10 * time.Second
		opts.RetryPolicy = activity.RetryPolicy{MaximumAttempts: 5, InitialInterval: time.Second}
		start(t, rt, opts, func(ctx activity.Context) error {
			return activity.Range(ctx, 0, 100, func(i int) error {
				if i == 40 && ctx.Info().Attempt == 1 {
					return errBoom
				}
				if ctx.Info().Attempt == 1 {
					return nil
				}
				return ctx.Sleep(2 * time.Second)
			})
		})
		page := get(t, h, "/")
		contains(t, page, `<progress aria-label="Progress of a/b" value="40" max="100">`, "40 of 100", `class="state">backing off<`, `class="alert">failing<`,
			"attempt 1 of 5", "next attempt in 1 s", ">boom<")
		lacks(t, page, " left")
		pass(11 * time.Second)
		page = get(t, h, "/")
		contains(t, page, `value="45" max="100"`, "45 of 100", "0.5/s, 1 min 50 s left", "attempt 2 of 5", "silent for 0 s of 10 s", `data-f="Age">11 s<`)
		lacks(t, page, `class="alert"`, "next attempt")
		pass(time.Second)
		contains(t, get(t, h, "/"), "silent for 1 s of 10 s", "0.5/s, 1 min 49 s left")
		if err := rt.Pause("a/b"); err != nil {
			t.Fatal(err)
		}
		pass(9 * time.Second)
		page = get(t, h, "/")
		contains(t, page, "45 of 100", `data-f="Beat">10 s ago<`)
		lacks(t, page, " left", "silent")
	})
}

// Given a function that has stalled, then the page has its stack at the timeout.
func TestPage_StackOfAStall(t *testing.T) {
	bubble(t, activity.Config{}, nil, func(t *testing.T, rt *activity.Runtime, h http.Handler) {
		opts := job("a")
		opts.HeartbeatTimeout = time.Second
		start(t, rt, opts, untilEnded)
		lacks(t, get(t, h, "/"), "Stack at the failure")
		pass(time.Second)
		contains(t, get(t, h, "/"), "heartbeat timeout", "Stack at the failure", "activityhttp_test.untilEnded")
	})
}

// recurseWithALongNameSoThatAStackIsLargerThanWhatThePageShows waits at a depth of n calls.
func recurseWithALongNameSoThatAStackIsLargerThanWhatThePageShows(ctx activity.Context, n int) error {
	if n > 0 {
		return recurseWithALongNameSoThatAStackIsLargerThanWhatThePageShows(ctx, n-1)
	}
	return untilEnded(ctx)
}

// The page cuts the stack of a deep recursion, and the API does not.
func TestStack_Deep(t *testing.T) {
	bubble(t, activity.Config{}, nil, func(t *testing.T, rt *activity.Runtime, h http.Handler) {
		start(t, rt, job("a"), func(ctx activity.Context) error {
			return recurseWithALongNameSoThatAStackIsLargerThanWhatThePageShows(ctx, 90)
		})
		page := get(t, h, "/stack?id=a")
		contains(t, page, "activityhttp_test.untilEnded", "Stack of", "Again")
		pass(time.Minute)
		text := get(t, h, "/api/stack?id=a")
		contains(t, page, fmt.Sprintf("… (cut: %d bytes in all)", len(text)))
		lacks(t, text, "(cut: ")
	})
}

// Given details that are no Range's, then the page shows their values.
func TestPage_Details(t *testing.T) {
	for _, test := range []struct {
		details []any
		want    string
	}{
		{[]any{17}, "17"},
		{[]any{"a", 2}, `"a", 2`},
		{[]any{map[string]int{"row": 3}}, `{"row":3}`},
		{nil, ""},
	} {
		bubble(t, activity.Config{}, nil, func(t *testing.T, rt *activity.Runtime, h http.Handler) {
			start(t, rt, job("a"), func(ctx activity.Context) error {
				if err := ctx.Heartbeat(test.details...); err != nil {
					return err
				}
				return untilEnded(ctx)
			})
			contains(t, get(t, h, "/"), `data-f="Details">`+html.EscapeString(test.want)+`</code>`)
		})
	}
}

// hostile are texts that are no text in HTML, in a URL, or to the eye.
var hostile = []string{
	"<script>alert(1)</script>", `"><img src=x onerror=alert(1)>`, "' onmouseover='x", "</pre></table>", "{{.}}", "a&lt;b",
	"a/b?c=d&e#f", "../../x", "\x00\x01", "\xff\xfe", "\u202egnp.exe", "\u2028", "שלום", `"quoted"`, "javascript:alert(1)", "100%", "%zz", "a b+c",
}

// Given hostile IDs, names, errors, details and panics, then the page and the stack show them as
// text, and each ID is found again by its row's URLs.
func TestPage_HostileTexts(t *testing.T) {
	for _, text := range hostile {
		bubble(t, activity.Config{}, control, func(t *testing.T, rt *activity.Runtime, h http.Handler) {
			opts := activity.Options{ID: text, Name: text, RetryPolicy: activity.RetryPolicy{InitialInterval: time.Hour}}
			start(t, rt, opts, func(ctx activity.Context) error {
				_ = ctx.Heartbeat(strings.ToValidUTF8(text, ""))
				if ctx.Info().Attempt == 1 {
					panic(errors.New(text))
				}
				return untilEnded(ctx)
			})
			page := get(t, h, "/")
			checkDiff(t, "key", keys(page), []string{url.QueryEscape(text)})
			checkText(t, page)
			retry := urlOf(t, page, `action="retry?id=`)
			w := do(t, h, http.StatusSeeOther, "POST", "/"+retry)
			checkDiff(t, "Location", w.Header().Get("Location"), "./")
			synctest.Wait()
			stack := get(t, h, "/"+urlOf(t, get(t, h, "/"), `href="stack?id=`))
			checkText(t, stack)
			contains(t, stack, "untilEnded")
			do(t, h, http.StatusSeeOther, "POST", "/"+urlOf(t, page, `action="cancel?id=`))
			synctest.Wait()
			page = get(t, h, "/")
			checkText(t, page)
			contains(t, page, `class="state canceled">canceled<`)
		})
	}
}

// checkText checks that a page has no tag and no character but its own.
func checkText(t *testing.T, page string) {
	t.Helper()
	lacks(t, strings.Replace(page, `<script src="page.js" defer></script>`, "", 1), "<script", "<img", "' onmouseover='", "</pre></table>", "\x00", "\x01", "\u202e", "\u2028", `"javascript:`, "ZgotmplZ")
	if strings.ToValidUTF8(page, "") != page {
		t.Error("the page is not UTF-8")
	}
}

// urlOf returns the URL in the page that is in an attribute which begins like this.
func urlOf(t *testing.T, page, begin string) string {
	t.Helper()
	_, rest, ok := strings.Cut(page, begin)
	if !ok {
		t.Fatalf("%q is missing in:\n%s", begin, page)
	}
	value, _, _ := strings.Cut(rest, `"`)
	_, name, _ := strings.Cut(begin, `"`)
	return html.UnescapeString(name + value)
}

// Given details, an error and a name of 1 MB each, then the page cuts them.
func TestPage_CutsLongTexts(t *testing.T) {
	bubble(t, activity.Config{}, nil, func(t *testing.T, rt *activity.Runtime, h http.Handler) {
		long := strings.Repeat("é", 1<<19)
		opts := activity.Options{ID: "a", Name: long, RetryPolicy: activity.RetryPolicy{InitialInterval: time.Hour}}
		start(t, rt, opts, func(ctx activity.Context) error {
			if err := ctx.Heartbeat(long); err != nil {
				return err
			}
			return errors.New(long)
		})
		page := get(t, h, "/")
		contains(t, page, "é… (cut: 1048576 bytes in all)")
		if strings.Count(page, "in all)") != 3 || len(page) > 20_000 || strings.Contains(page, `\x`) {
			t.Errorf("%d texts are cut, and the page has %d bytes", strings.Count(page, "in all)"), len(page))
		}
	})
}

// Given one activity for each alert and some without, then those that need a person come first,
// in the order of the alerts, and then the oldest.
func TestPage_Order(t *testing.T) {
	bubble(t, activity.Config{}, nil, func(t *testing.T, rt *activity.Runtime, h http.Handler) {
		hang := make(chan struct{})
		defer close(hang)
		opts := func(id string) activity.Options {
			o := job(id)
			o.RetryPolicy.InitialInterval = time.Hour
			return o
		}
		start(t, rt, opts("old"), untilEnded)
		pass(time.Second)
		start(t, rt, opts("new"), untilEnded)
		start(t, rt, opts("failing"), func(activity.Context) error { return errBoom })
		silent := opts("silent")
		silent.HeartbeatTimeout = 8 * time.Second
		start(t, rt, silent, untilEnded)
		abandoned := opts("abandoned")
		abandoned.HeartbeatTimeout = time.Second
		start(t, rt, abandoned, func(ctx activity.Context) error {
			if ctx.Info().Attempt == 1 {
				<-hang
			}
			return activity.Idle(ctx, time.Hour)
		})
		blocked := opts("blocked")
		blocked.HeartbeatTimeout, blocked.MaxAbandoned = time.Second, activity.NoOverlap
		start(t, rt, blocked, func(ctx activity.Context) error {
			<-hang
			return nil
		})
		pass(6*time.Second - 1)
		page := get(t, h, "/")
		checkDiff(t, "rows before", keys(page), []string{"blocked", "abandoned", "failing", "old", "new", "silent"})
		contains(t, page, "1 activity is blocked: a function of an earlier attempt still runs.", "1 activity is stalled.", "1 activity is failing.", "1 abandoned")
		pass(1)
		page = get(t, h, "/")
		checkDiff(t, "rows", keys(page), []string{"blocked", "silent", "abandoned", "failing", "old", "new"})
		contains(t, page, "2 activities are stalled.")
		for query, want := range map[string][]string{
			"?state=blocked": {"blocked"}, "?state=stalled": {"silent", "abandoned"}, "?state=failing": {"failing"}, "?state=backing+off": {"failing"},
			"?state=running": {"silent", "abandoned", "old", "new"}, "?state=paused": nil, "?find=L": {"blocked", "silent", "failing", "old"},
			"?find=ol&state=running": {"old"}, "?name=JO": {"blocked", "silent", "abandoned", "failing", "old", "new"}, "?name=x": nil,
		} {
			checkDiff(t, query, keys(get(t, h, "/"+query)), want)
		}
	})
}

// An attempt after a failure is failing until its first heartbeat.
func TestPage_FailingUntilHeartbeat(t *testing.T) {
	bubble(t, activity.Config{}, nil, func(t *testing.T, rt *activity.Runtime, h http.Handler) {
		opts := job("a")
		opts.RetryPolicy.InitialInterval = time.Second
		start(t, rt, opts, func(ctx activity.Context) error {
			if ctx.Info().Attempt == 1 {
				return errBoom
			}
			_ = ctx.Sleep(10 * time.Second)
			_ = ctx.Heartbeat()
			return untilEnded(ctx)
		})
		pass(11*time.Second - 1)
		contains(t, get(t, h, "/"), `class="state">running<`, `class="alert">failing<`)
		pass(1)
		page := get(t, h, "/")
		contains(t, page, `class="state">running<`, ">boom<")
		lacks(t, page, `class="alert"`)
	})
}

// Given 10,000 activities, then a page has 100 rows, links to its neighbors, and keeps the filter.
func TestPage_TenThousand(t *testing.T) {
	bubble(t, activity.Config{MaxConcurrent: 1}, nil, func(t *testing.T, rt *activity.Runtime, h http.Handler) {
		for i := range 10_000 {
			if _, err := rt.Start(t.Context(), job(fmt.Sprintf("%05d", i)), untilEnded); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		check := func(path string, first, last string, texts ...string) {
			t.Helper()
			page := get(t, h, path)
			got := keys(page)
			if got[0] != first || got[len(got)-1] != last || len(got) > 100 {
				t.Errorf("%s: got %s to %s, want %s to %s", path, got[0], got[len(got)-1], first, last)
			}
			contains(t, page, texts...)
		}
		check("/", "00000", "00099", "1 to 100 of 10000<", `href="?page=2"`)
		check("/?page=2", "00100", "00199", "101 to 200 of 10000<", `href="?"`, `href="?page=3"`)
		check("/?page=100", "09900", "09999", `href="?page=99"`)
		check("/?page=101", "09900", "09999", `href="?page=99"`) // the last page, because activities may have ended
		var found []string
		for i := range 10_000 {
			if id := fmt.Sprintf("%05d", i); strings.Contains(id, "99") {
				found = append(found, id)
			}
		}
		check("/?find=99&page=2", found[100], found[199], fmt.Sprintf("101 to 200 of %d that match, 10000 in all", len(found)), `href="?find=99&amp;page=3"`, `href="?find=99"`)
		lacks(t, get(t, h, "/?page=100"), "Next page")
		lacks(t, get(t, h, "/"), "Previous page")
		contains(t, get(t, h, "/?find=none"), "None of 10000 activities matches.")
	})
}

func TestPage_None(t *testing.T) {
	bubble(t, activity.Config{}, nil, func(t *testing.T, rt *activity.Runtime, h http.Handler) {
		contains(t, get(t, h, "/"), "No activity is running or waiting.", "None has ended since Handler was called.")
	})
}

// Given 60 activities that have ended, then the page shows the last 50, the newest first, with
// how and how long.
func TestPage_Ended(t *testing.T) {
	bubble(t, activity.Config{}, nil, func(t *testing.T, rt *activity.Runtime, h http.Handler) {
		for i := range 58 {
			start(t, rt, job(fmt.Sprintf("done-%02d", i)), func(activity.Context) error { return nil })
		}
		once := job("failed")
		once.RetryPolicy.MaximumAttempts = 1
		start(t, rt, once, func(ctx activity.Context) error {
			_ = ctx.Sleep(90 * time.Second)
			panic("no such table")
		})
		pass(90 * time.Second)
		start(t, rt, job("canceled"), untilEnded)
		if err := rt.Cancel("canceled", errBoom); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		page := get(t, h, "/")
		_, page, _ = strings.Cut(page, `id="ended"`)
		var ids []string
		for _, part := range strings.Split(page, `<bdi class="id">`)[1:] {
			id, _, _ := strings.Cut(part, "<")
			ids = append(ids, id)
		}
		want := []string{"canceled", "failed"}
		for i := 57; len(want) < 50; i-- {
			want = append(want, fmt.Sprintf("done-%02d", i))
		}
		checkDiff(t, "ended", ids, want)
		contains(t, page, "failed\">failed<", "after 1 min 30 s", ">panic: no such table<", "Stack at the failure", "TestPage_Ended", "canceled\">canceled<", ">boom<", "completed\">completed<", "after 0 s", "2000-01-01 00:01:30 UTC")
		contains(t, page, `<tr role="row" data-key="60">`, `<tr role="row" data-key="11">`)
		lacks(t, page, `data-key="10"`)
	})
}

// Given the checkpoints of activities that do not run, then their page shows and forgets them.
func TestStored(t *testing.T) {
	store := &storetest.Memory{}
	bubble(t, activity.Config{Store: store}, control, func(t *testing.T, rt *activity.Runtime, h http.Handler) {
		contains(t, get(t, h, "/stored"), "There is no such checkpoint.")
		opts := job("<b>\xff")
		opts.RetryPolicy.MaximumAttempts = 1
		start(t, rt, opts, func(ctx activity.Context) error {
			if err := ctx.Heartbeat(17); err != nil {
				return err
			}
			return errBoom
		})
		pass(time.Second)
		page := get(t, h, "/stored?find=B&name=job")
		contains(t, page, `&#34;&lt;b&gt;\xff&#34;`, `class="state">failed<`, ">17<", ">boom<", "2000-01-01 00:00:00 UTC")
		forget := urlOf(t, page, `action="forget?id=`)
		contains(t, get(t, h, "/stored?find=c"), "There is no such checkpoint.")
		w := do(t, h, http.StatusSeeOther, "POST", "/"+forget)
		checkDiff(t, "Location", w.Header().Get("Location"), "./stored?find=B&name=job")
		contains(t, get(t, h, "/stored"), "There is no such checkpoint.")
	})
}

// Given 150 checkpoints, then the page of the checkpoints has two pages.
func TestStored_Pages(t *testing.T) {
	store := &storetest.Memory{}
	bubble(t, activity.Config{Store: store}, nil, func(t *testing.T, rt *activity.Runtime, h http.Handler) {
		for i := range 150 {
			opts := job(fmt.Sprint("job ", i))
			opts.RetryPolicy.MaximumAttempts = 1
			start(t, rt, opts, func(activity.Context) error { return errBoom })
		}
		pass(time.Second)
		first, second := get(t, h, "/stored"), get(t, h, "/stored?page=2")
		if n, m := strings.Count(first, `class="id"`), strings.Count(second, `class="id"`); n != 100 || m != 50 {
			t.Errorf("the pages have %d and %d checkpoints", n, m)
		}
		contains(t, first, `href="?page=2"`)
		contains(t, second, `href="?"`)
		lacks(t, first, "forget", "Previous")
		lacks(t, second, "Next page")
	})
}

// Each response has the headers that protect it.
func TestHeaders(t *testing.T) {
	bubble(t, activity.Config{}, nil, func(t *testing.T, rt *activity.Runtime, h http.Handler) {
		for path, contentType := range map[string]string{
			"/": "text/html; charset=utf-8", "/page.css": "text/css; charset=utf-8", "/page.js": "text/javascript; charset=utf-8",
			"/stored": "text/html; charset=utf-8", "/healthz": "text/plain; charset=utf-8", "/api/activities": "application/json",
			"/none": "text/html; charset=utf-8", "/stack": "text/html; charset=utf-8", "/api/stack": "application/json",
		} {
			w := httptest.NewRecorder()
			h.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
			got := map[string]string{}
			for name := range w.Header() {
				got[name] = w.Header().Get(name)
			}
			delete(got, "Content-Length")
			checkDiff(t, path, got, map[string]string{
				"Content-Type": contentType,
				"Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; form-action 'self'; " +
					"frame-ancestors 'none'; base-uri 'none'",
				"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store", "Referrer-Policy": "same-origin",
			})
		}
	})
}

// No page has a script or a style of its own, which the policy would block.
func TestPage_NothingInline(t *testing.T) {
	bubble(t, activity.Config{}, control, func(t *testing.T, rt *activity.Runtime, h http.Handler) {
		start(t, rt, job("a"), untilEnded)
		for _, path := range []string{"/", "/stored", "/stack?id=a"} {
			lacks(t, get(t, h, path), "<style", " style=", "<script>", " onclick", " src=\"/", " href=\"/", " action=\"/", "http:", "https:")
		}
	})
}

// The handler works below every prefix, stripped with its last slash or without, and each of its URLs
// is relative.
func TestHandler_BelowAPrefix(t *testing.T) {
	bubble(t, activity.Config{}, control, func(t *testing.T, rt *activity.Runtime, h http.Handler) {
		start(t, rt, job("a"), untilEnded)
		base, _ := url.Parse("http://example.com/x/y/")
		for _, prefix := range []string{"/x/y", "/x/y/"} {
			mux := http.NewServeMux()
			mux.Handle("/x/y/", http.StripPrefix(prefix, h))
			page := get(t, mux, "/x/y/")
			for _, begin := range []string{`href="page.css`, `src="page.js`, `href="stored`, `href="stack?id=`} {
				to, err := base.Parse(urlOf(t, page, begin))
				if err != nil {
					t.Fatal(err)
				}
				get(t, mux, to.RequestURI())
			}
			w := do(t, mux, http.StatusSeeOther, "POST", "/x/y/"+urlOf(t, page, `action="pause?id=`))
			to, err := base.Parse(w.Header().Get("Location"))
			if err != nil || to.Path != "/x/y/" {
				t.Errorf("with prefix %s, %s leads to %s, %v", prefix, w.Header().Get("Location"), to, err)
			}
			synctest.Wait()
			if err := rt.Unpause("a"); err != nil {
				t.Error(err)
			}
			synctest.Wait()
		}
		// A router that does not add the slash.
		bare := http.StripPrefix("/x/y", h)
		w := do(t, bare, http.StatusTemporaryRedirect, "GET", "/x/y?find=a")
		base, _ = url.Parse("http://example.com/x/y?find=a")
		if to, err := base.Parse(w.Header().Get("Location")); err != nil || to.RequestURI() != "/x/y/?find=a" {
			t.Errorf("%s leads to %s, %v", w.Header().Get("Location"), to, err)
		}
	})
}

func TestHandler_RefusesWrongQueries(t *testing.T) {
	bubble(t, activity.Config{}, control, func(t *testing.T, rt *activity.Runtime, h http.Handler) {
		long := strings.Repeat("x", 1<<10)
		for _, path := range []string{
			"/?state=x", "/live?state=x", "/api/activities?state=x",
			"/?page=0", "/?page=x", "/stored?page=-1", "/?page=1000000001", "/stored?page=184467440737095518", "/api/activities?page=92233720368547759",
			"/stack", "/api/stack?id=", "/api/activities?id=", "/api/activities?id=&find=a",
			"/?find=%zz", "/api/activities?find=%zz", "/?find=a;name=b", "/stored?find=%", "/live?a;b",
			"/?find=x" + long, "/?name=x" + long, "/stored?find=x" + long,
		} {
			do(t, h, http.StatusBadRequest, "GET", path)
		}
		for _, path := range []string{"/?page=1000000000", "/stored?page=1000000000", "/?name=" + long + "&find=" + long} {
			get(t, h, path)
		}
		do(t, h, http.StatusBadRequest, "POST", "/api/cancel?id=a;b")
		for _, path := range []string{"/x", "/page.html", "/api/", "/api/x", "//", "/cancel/"} {
			do(t, h, http.StatusNotFound, "GET", path)
		}
		do(t, h, http.StatusBadRequest, "POST", "/api/cancel")
	})
}

// A router that does not add the slash to a prefix gets a redirect, in which the prefix is
// escaped once.
func TestHandler_RedirectsToTheSlash(t *testing.T) {
	bubble(t, activity.Config{}, nil, func(t *testing.T, rt *activity.Runtime, h http.Handler) {
		for _, test := range []struct{ prefix, target, want string }{
			{"/a", "/a", "./a/"},
			{"/a", "/a?b=c;d", "./a/?b=c;d"},
			{"/a", "http://example.com/a", "./a/"},
			{"/é", "/%C3%A9", "./%C3%A9/"},
			{"/d e", "/d%20e", "./d%20e/"},
			{"/x/a:b", "/x/a:b", "./a:b/"},
		} {
			w := do(t, http.StripPrefix(test.prefix, h), http.StatusTemporaryRedirect, "GET", test.target)
			checkDiff(t, test.target, w.Header().Get("Location"), test.want)
		}
	})
}

// A page that does not exist has no relative links, which would lead elsewhere from a deeper path.
func TestHandler_NotFoundBelowAPath(t *testing.T) {
	bubble(t, activity.Config{}, nil, func(t *testing.T, rt *activity.Runtime, h http.Handler) {
		for _, path := range []string{"/stack/", "/stack/x/y", "//"} {
			page := do(t, h, http.StatusNotFound, "GET", path).Body.String()
			contains(t, page, "There is no such page.")
			lacks(t, page, "href=")
		}
		contains(t, do(t, h, http.StatusNotFound, "GET", "/x").Body.String(), `<a href="./">`)
		contains(t, do(t, h, http.StatusNotFound, "GET", "/api/x/y").Body.String(), `{"Error":"There is no such page."}`)
	})
}

// Given an activity that has ended and whose Store fails, then it is found by its final state.
func TestPage_FilterByFinalState(t *testing.T) {
	store := &failingStore{Store: &storetest.Memory{}}
	bubble(t, activity.Config{Store: store}, nil, func(t *testing.T, rt *activity.Runtime, h http.Handler) {
		start(t, rt, job("a"), func(ctx activity.Context) error { return ctx.Sleep(time.Second) })
		start(t, rt, job("b"), untilEnded)
		store.fails.Store(true)
		defer store.fails.Store(false)
		pass(2 * time.Second)
		page := get(t, h, "/?state=completed")
		checkDiff(t, "rows", keys(page), []string{"a"})
		contains(t, page, "<option selected>completed")
		for _, state := range []string{"failed", "canceled"} {
			checkDiff(t, state, len(decode[statuses](t, h, "/api/activities?state="+state).Activities), 0)
		}
	})
}

func TestHandler_Methods(t *testing.T) {
	bubble(t, activity.Config{}, control, func(t *testing.T, rt *activity.Runtime, h http.Handler) {
		for _, path := range []string{"/", "/page.css", "/page.js", "/live", "/stack", "/stored", "/healthz", "/api/activities", "/api/checkpoints", "/api/stack"} {
			if got := do(t, h, http.StatusMethodNotAllowed, "POST", path).Header().Get("Allow"); got != "GET, HEAD" {
				t.Errorf("%s allows %q", path, got)
			}
		}
		for _, name := range []string{"cancel", "pause", "unpause", "retry", "forget"} {
			for _, path := range []string{"/" + name, "/api/" + name} {
				for _, method := range []string{"GET", "PUT", "DELETE"} {
					if got := do(t, h, http.StatusMethodNotAllowed, method, path).Header().Get("Allow"); got != "POST" {
						t.Errorf("%s allows %q", path, got)
					}
				}
			}
		}
		do(t, h, http.StatusOK, "HEAD", "/")
		do(t, h, http.StatusOK, "HEAD", "/live") // and it returns
	})
}

// With a mock clock, times are those of the Runtime.
func TestPage_RuntimeClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mock := clock.NewMock()
		rt := activity.New(activity.Config{Clock: mock, Logger: quiet})
		h := activityhttp.Handler(rt, nil)
		opts := job("a")
		opts.HeartbeatTimeout = 10 * time.Second
		start(t, rt, opts, untilEnded)
		mock.Add(8 * time.Second)
		contains(t, get(t, h, "/"), "silent for 8 s of 10 s", `class="alert">stalled<`)
		if err := rt.Cancel("a", nil); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		contains(t, get(t, h, "/"), "after 8 s")
	})
}
