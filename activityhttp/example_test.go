package activityhttp_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"

	"github.com/seed-9da638b0/activity"
	"github.com/seed-9da638b0/activity/activityhttp"
)

// onlyAdmins is the middleware that every program has in a form of its own.
func onlyAdmins(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, password, _ := r.BasicAuth(); user != "admin" || password != "secret" {
			w.Header().Set("WWW-Authenticate", "Basic")
			http.Error(w, "only admins", http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// The page is mounted behind authentication. A program asks for the health of the Runtime, and
// cancels an activity by its ID.
func ExampleHandler() {
	rt := activity.New(activity.Config{Logger: quiet})
	pages := activityhttp.Handler(rt, &activityhttp.Options{Control: true})
	mux := http.NewServeMux()
	mux.Handle("/debug/activities/", onlyAdmins(http.StripPrefix("/debug/activities", pages)))
	server := httptest.NewServer(mux)
	defer server.Close()

	h, err := rt.Start(context.Background(), activity.Options{ID: "today's import"}, untilEnded)
	if err != nil {
		fmt.Println(err)
		return
	}
	call := func(method, path, password string) {
		req, err := http.NewRequest(method, server.URL+"/debug/activities/"+path, nil)
		if err != nil {
			fmt.Println(err)
			return
		}
		req.SetBasicAuth("admin", password)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			fmt.Println(err)
			return
		}
		defer resp.Body.Close()
		body, _ := io.ReadAll(resp.Body)
		fmt.Printf("%s: %q\n", resp.Status, body)
	}
	call("GET", "healthz", "secret")
	call("GET", "healthz", "guess")
	call("POST", "api/cancel?id="+url.QueryEscape("today's import"), "secret")
	_, err = h.Wait(context.Background())
	fmt.Println(err)
	// Output:
	// 200 OK: "ok\n"
	// 401 Unauthorized: "only admins\n"
	// 204 No Content: ""
	// activity "today's import" (github.com/seed-9da638b0/activity/activityhttp_test.untilEnded) was canceled in attempt 1: canceled over HTTP: context canceled
}
