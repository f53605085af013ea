//go:build unix

package main

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/seed-9da638b0/activity"
	"github.com/seed-9da638b0/activity/boltstore"
)

func init() {
	children["crash"] = func() {
		s, err := boltstore.Open(os.Args[1], nil)
		if err != nil {
			panic(err)
		}
		rt := activity.New(activity.Config{Store: s, Logger: slog.New(slog.DiscardHandler)})
		_ = rt.Run(context.Background(), activity.Options{ID: "import", Name: "crash", SyncHeartbeats: true}, func(ctx activity.Context) error {
			return errors.Join(ctx.Heartbeat(42), syscall.Kill(syscall.Getpid(), syscall.SIGKILL))
		})
	}
}

// Given a program that was killed during an attempt, when its file is looked at, then its last
// heartbeat is there, every command works, and the file stays as it is until forget.
func TestCrash_EveryCommand(t *testing.T) {
	dir := t.TempDir()
	cmd := child(t, "crash", filepath.Join(dir, file))
	_ = cmd.Run()
	if status := cmd.ProcessState.Sys().(syscall.WaitStatus); status.Signal() != syscall.SIGKILL {
		t.Fatalf("the child ended with status %#x", status)
	}
	check := unchanged(t, dir)
	wantResult(t, dir, result{stdout: "activities.db: ok; checkpoints: 1\n"}, "verify", file)
	for _, args := range [][]string{{"ls", file}, {"ls", "-json", file}, {"export", file}} {
		if got := activities(t, dir, args...); got.code != 0 || !strings.Contains(got.stdout, "running") {
			t.Errorf("%q: %+v", args, got)
		}
	}
	if got := activities(t, dir, "show", file, "import"); !strings.Contains(got.stdout, "\nDetails:     42\n") {
		t.Errorf("show: %+v", got)
	}
	copied := filepath.Join(t.TempDir(), file)
	wantResult(t, dir, result{}, "backup", file, copied)
	check()
	wantResult(t, dir, result{}, "forget", file, "import")
	if left := stored(t, filepath.Join(dir, file)); len(left) > 0 {
		t.Errorf("%v are left, want nothing", left)
	}
	if all := stored(t, copied); all["import"].State != activity.CheckpointRunning {
		t.Errorf("the copy has %v", all)
	}
}
