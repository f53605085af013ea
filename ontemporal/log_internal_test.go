package ontemporal

import (
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/slogtest"
)

// lines is an SDK logger that keeps its lines.
type lines struct {
	all  []map[string]any
	text []string
}

func (l *lines) add(level, msg string, keyvals []any) {
	line := map[string]any{slog.LevelKey: level, slog.MessageKey: msg}
	for i := 0; i < len(keyvals); i += 2 {
		at := line
		keys := strings.Split(keyvals[i].(string), ".")
		for _, k := range keys[:len(keys)-1] {
			if at[k] == nil {
				at[k] = map[string]any{}
			}
			at = at[k].(map[string]any)
		}
		at[keys[len(keys)-1]] = keyvals[i+1]
	}
	l.all = append(l.all, line)
	l.text = append(l.text, fmt.Sprint(level, " ", msg, " ", keyvals))
}

func (l *lines) Debug(msg string, keyvals ...any) { l.add("DEBUG", msg, keyvals) }
func (l *lines) Info(msg string, keyvals ...any)  { l.add("INFO", msg, keyvals) }
func (l *lines) Warn(msg string, keyvals ...any)  { l.add("WARN", msg, keyvals) }
func (l *lines) Error(msg string, keyvals ...any) { l.add("ERROR", msg, keyvals) }

// Given a logHandler, then it conforms to slog.Handler. The SDK's logger adds the time.
func TestLogHandler_Conforms(t *testing.T) {
	l := &lines{}
	slogtest.Run(t, func(*testing.T) slog.Handler { l.all = nil; return &logHandler{logger: l} }, func(t *testing.T) map[string]any {
		last := l.all[len(l.all)-1]
		if strings.HasSuffix(t.Name(), "/zero-time") {
			return last
		}
		last[slog.TimeKey] = "the SDK's logger adds it"
		return last
	})
}

// Given records with attributes and groups, then the SDK's logger gets them at its own levels.
func TestLogHandler_Levels(t *testing.T) {
	l := &lines{}
	log := slog.New(&logHandler{logger: l}).With("id", "a")
	log.WithGroup("g").Debug("d", "n", 1)
	log.Info("i", slog.Group("g", "n", 2))
	log.Warn("w")
	log.Error("e", "n", 3)
	log.Log(t.Context(), slog.LevelError+4, "fatal")
	want := "[DEBUG d [id a g.n 1] INFO i [id a g.n 2] WARN w [id a] ERROR e [id a n 3] ERROR fatal [id a]]"
	if got := fmt.Sprint(l.text); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}
