package activityhttp_test

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-9da638b0/activity"
	"github.com/seed-9da638b0/activity/activityhttp"
	"github.com/seed-9da638b0/activity/storetest"
)

// Without Control, each action is refused, nothing happens, and the page has no button.
func TestSteer_WithoutControl(t *testing.T) {
	for _, opts := range []*activityhttp.Options{nil, {}} {
		store := &storetest.Memory{}
		bubble(t, activity.Config{Store: store}, opts, func(t *testing.T, rt *activity.Runtime, h http.Handler) {
			start(t, rt, job("a"), untilEnded)
			once := job("stored")
			once.RetryPolicy.MaximumAttempts = 1
			start(t, rt, once, func(activity.Context) error { return errBoom })
			for _, name := range []string{"cancel", "pause", "unpause", "retry", "forget"} {
				for _, id := range []string{"a", "stored", "none"} {
					do(t, h, http.StatusForbidden, "POST", "/"+name+"?id="+id)
					do(t, h, http.StatusForbidden, "POST", "/api/"+name+"?id="+id)
				}
			}
			synctest.Wait()
			if s, ok := rt.Lookup("a"); !ok || s.State != activity.StateRunning {
				t.Errorf("the activity is %s", s.State)
			}
			for _, page := range []string{get(t, h, "/"), get(t, h, "/stored")} {
				lacks(t, page, `method="post"`, "Cancel", "Pause", "Forget")
			}
			contains(t, get(t, h, "/stored"), ">stored<")
			contains(t, get(t, h, "/"), ">Stack<")
		})
	}
}

// A page has the buttons that make sense for the state.
func TestSteer_Buttons(t *testing.T) {
	bubble(t, activity.Config{MaxConcurrent: 1}, control, func(t *testing.T, rt *activity.Runtime, h http.Handler) {
		check := func(id string, want ...string) {
			t.Helper()
			var got []string
			page := get(t, h, "/?find="+id)
			for _, part := range strings.Split(page, `<form method="post" action="`)[1:] {
				name, _, _ := strings.Cut(part, "?")
				got = append(got, name)
			}
			checkDiff(t, "buttons of "+id, got, want)
		}
		opts := job("failing")
		opts.RetryPolicy.InitialInterval = time.Hour
		start(t, rt, opts, func(activity.Context) error { return errBoom })
		start(t, rt, job("running"), untilEnded)
		start(t, rt, job("waiting"), untilEnded)
		start(t, rt, job("paused"), untilEnded)
		if err := rt.Pause("paused"); err != nil {
			t.Fatal(err)
		}
		check("failing", "cancel", "pause", "retry")
		check("running", "cancel", "pause")
		check("waiting", "cancel", "pause")
		check("paused", "cancel", "unpause")
		form, err := url.Parse(urlOf(t, get(t, h, "/?find=pau&state=paused"), `action="unpause?id=`))
		if err != nil || form.Query().Get("back") != "?find=pau&state=paused" {
			t.Errorf("the form is %s, %v", form, err)
		}
	})
}

// Each action works, over the API and as a form, and leads back to the page with its filter.
func TestSteer_Actions(t *testing.T) {
	for _, api := range []bool{false, true} {
		store := &storetest.Memory{}
		bubble(t, activity.Config{Store: store}, control, func(t *testing.T, rt *activity.Runtime, h http.Handler) {
			id := "a/b?c\x00\xff#1"
			opts := job(id)
			opts.RetryPolicy.InitialInterval = time.Hour
			fail := true
			handle, err := rt.Start(t.Context(), opts, func(ctx activity.Context) error {
				if fail {
					return errBoom
				}
				return untilEnded(ctx)
			})
			if err != nil {
				t.Fatal(err)
			}
			act := func(name string) {
				t.Helper()
				synctest.Wait()
				query := "?id=" + url.QueryEscape(id)
				if api {
					if body := do(t, h, http.StatusNoContent, "POST", "/api/"+name+query).Body.String(); body != "" {
						t.Errorf("the answer has the body %q", body)
					}
				} else {
					w := do(t, h, http.StatusSeeOther, "POST", "/"+name+query+"&back="+url.QueryEscape("?find=a&page=2"))
					checkDiff(t, "Location", w.Header().Get("Location"), "./?find=a&page=2")
				}
				synctest.Wait()
			}
			state := func(want activity.State) {
				t.Helper()
				if s, _ := rt.Lookup(id); s.State != want {
					t.Errorf("the activity is %s, want %s", s.State, want)
				}
			}
			synctest.Wait()
			state(activity.StateBackingOff)
			fail = false
			act("retry")
			state(activity.StateRunning)
			act("pause")
			state(activity.StatePaused)
			act("unpause")
			state(activity.StateRunning)
			act("cancel")
			if _, err := handle.Wait(t.Context()); !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "canceled over HTTP") {
				t.Errorf("the activity ended with %v", err)
			}
			if _, found, _ := store.Load(t.Context(), id); !found {
				t.Error("there is no checkpoint to forget")
			}
			act("forget")
			if _, found, _ := store.Load(t.Context(), id); found {
				t.Error("the checkpoint is still there")
			}
		})
	}
}

// The actions that fail say why, with the status code of the reason.
func TestSteer_Errors(t *testing.T) {
	bubble(t, activity.Config{}, control, func(t *testing.T, rt *activity.Runtime, h http.Handler) {
		start(t, rt, job("running"), untilEnded)
		start(t, rt, job("paused"), untilEnded)
		if err := rt.Pause("paused"); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		for _, test := range []struct {
			method, path string
			want         int
			text         string
		}{
			{"POST", "cancel?id=<none>", http.StatusNotFound, "no activity with this ID is running"},
			{"POST", "pause?id=none", http.StatusNotFound, "no activity with this ID is running"},
			{"POST", "unpause?id=none", http.StatusNotFound, "no activity with this ID is running"},
			{"POST", "retry?id=none", http.StatusNotFound, "no activity with this ID is running"},
			{"GET", "stack?id=none", http.StatusNotFound, "no activity with this ID is running"},
			{"POST", "retry?id=running", http.StatusConflict, "the activity is running"},
			{"POST", "unpause?id=running", http.StatusConflict, "the activity is running"},
			{"GET", "stack?id=paused", http.StatusConflict, "the activity is paused"},
			{"POST", "forget?id=running", http.StatusConflict, "already running"},
		} {
			page := do(t, h, test.want, test.method, "/"+test.path).Body.String()
			contains(t, page, test.text, `<a href="./">`)
			lacks(t, page, "<none>")
			api := do(t, h, test.want, test.method, "/api/"+test.path)
			contains(t, api.Body.String(), `{"Error":"`, test.text)
		}
	})
}

// A forget whose Store fails is no fault of the request.
func TestSteer_StoreFails(t *testing.T) {
	store := &failingStore{Store: &storetest.Memory{}}
	bubble(t, activity.Config{Store: store}, control, func(t *testing.T, rt *activity.Runtime, h http.Handler) {
		store.fails.Store(true)
		contains(t, do(t, h, http.StatusServiceUnavailable, "POST", "/api/forget?id=a").Body.String(), "disk full")
		contains(t, do(t, h, http.StatusServiceUnavailable, "GET", "/stored").Body.String(), `disk full \u202e`)
		contains(t, do(t, h, http.StatusServiceUnavailable, "GET", "/api/checkpoints").Body.String(), "disk full")
		store.fails.Store(false)
	})
}

// An action that comes from another site is refused. One that comes from no browser is not.
func TestSteer_CrossOrigin(t *testing.T) {
	for _, test := range []struct {
		header []string
		want   int
	}{
		{[]string{"Sec-Fetch-Site", "cross-site"}, http.StatusForbidden},
		{[]string{"Sec-Fetch-Site", "same-site"}, http.StatusForbidden},
		{[]string{"Origin", "https://evil.example"}, http.StatusForbidden},
		{[]string{"Origin", "null"}, http.StatusForbidden},
		{[]string{"Sec-Fetch-Site", "same-origin"}, http.StatusNoContent},
		{[]string{"Origin", "http://example.com"}, http.StatusNoContent}, // the host of the request
		{nil, http.StatusNoContent},
	} {
		bubble(t, activity.Config{}, control, func(t *testing.T, rt *activity.Runtime, h http.Handler) {
			start(t, rt, job("a"), untilEnded)
			do(t, h, test.want, "POST", "/api/pause?id=a", test.header...)
			synctest.Wait()
			want := activity.StateRunning
			if test.want == http.StatusNoContent {
				want = activity.StatePaused
			}
			if s, _ := rt.Lookup("a"); s.State != want {
				t.Errorf("%q: the activity is %s, want %s", test.header, s.State, want)
			}
		})
	}
}

// The page to which a form leads back is always one of the handler's.
func TestSteer_Back(t *testing.T) {
	for back, want := range map[string]string{
		"": "./", "?": "./", "?page=3": "./?page=3", "stored?find=x": "./stored?find=x", "https://evil.example/?a=b": "./?a=b",
		"//evil.example/stored": "./", "/etc": "./", "?a=%0d%0aX:y": "./?a=%0D%0AX%3Ay", "%zz": "./", "javascript:alert(1)": "./",
	} {
		bubble(t, activity.Config{}, control, func(t *testing.T, rt *activity.Runtime, h http.Handler) {
			start(t, rt, job("a"), untilEnded)
			w := do(t, h, http.StatusSeeOther, "POST", "/pause?id=a&back="+url.QueryEscape(back))
			checkDiff(t, back, w.Header().Get("Location"), want)
		})
	}
}
