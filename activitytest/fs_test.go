package activitytest_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/seed-9da638b0/activity"
	"github.com/seed-9da638b0/activity/activitytest"
)

// Given an FS outside of an activity, then its files are real files.
func TestFS_RealFiles(t *testing.T) {
	for _, loss := range []bool{false, true} {
		dir := t.TempDir()
		activitytest.Plan{Kinds: activitytest.Crash, PowerLoss: loss}.Run(t, func(t *testing.T, w *activitytest.World) {
			_ = w.Run(func(ctx context.Context, rt *activity.Runtime) error {
				return rt.Run(ctx, job, func(ctx activity.Context) error { return ctx.Heartbeat() })
			})
			disk := w.FS(dir)
			if disk != w.FS(filepath.Join(dir, "x", "..")) {
				t.Error("the same directory has two FS")
			}
			f, err := disk.Create("a")
			if err != nil {
				t.Fatal(err)
			}
			_, err1 := f.WriteString("hello")
			_, err2 := f.WriteAt([]byte("J"), 0)
			_, err3 := f.Seek(-1, io.SeekEnd)
			_, err4 := f.Write([]byte("y!"))
			p := make([]byte, 3)
			n, err5 := f.ReadAt(p, 3)
			if got, err := os.ReadFile(filepath.Join(dir, "a")); string(got) != "Jelly!" || n != 3 || string(p) != "ly!" || errors.Join(err, err1, err2, err3, err4, err5) != nil {
				t.Errorf("%q, %q, %v", got, p, errors.Join(err, err1, err2, err3, err4, err5))
			}
			if _, err := f.WriteAt(p, -1); err == nil {
				t.Error("a negative offset was accepted")
			}
			if err := errors.Join(f.Truncate(2), f.Sync(), f.Close(), disk.Rename("a", "b")); err != nil {
				t.Error(err)
			}
			if err := f.Sync(); !errors.Is(err, fs.ErrClosed) {
				t.Errorf("sync of a closed file: %v", err)
			}
			info, err := disk.Stat("b")
			if err != nil || info.Size() != 2 {
				t.Errorf("%v, %v", info, err)
			}
			g, err := disk.Open("b")
			if err != nil {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(g); string(got) != "Je" || err != nil || g.Name() != "b" {
				t.Errorf("%q, %v", got, err)
			}
			if err := errors.Join(g.Close(), disk.Remove("b")); err != nil {
				t.Error(err)
			}
			if _, err := disk.ReadFile("b"); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("a removed file: %v", err)
			}
			if _, err := disk.Open("../x"); err == nil {
				t.Error("a name has left the directory")
			}
		})
	}
}

// Given a process that changes files without a Sync, when the power fails, then each file is found in each
// state that the model allows, and in no other.
func TestFS_States(t *testing.T) {
	for name, test := range map[string]struct {
		do   func(disk *activitytest.FS) error
		want []string // contents of the file "a" after the power loss; "-" if there is none
	}{
		"append": {func(disk *activitytest.FS) error { return write(disk, "a", os.O_APPEND, "cd") },
			[]string{"ab", "ab\x00", "abc", "abc\x00", "ab\x00\x00", "ab\x00d"}},
		"overwrite":          {func(disk *activitytest.FS) error { return write(disk, "a", 0, "cd") }, []string{"ab", "cb", "ad"}},
		"append and sync":    {func(disk *activitytest.FS) error { return write(disk, "a", os.O_APPEND|os.O_SYNC, "cd") }, []string{"abcd"}},
		"truncate and write": {func(disk *activitytest.FS) error { return write(disk, "a", os.O_TRUNC, "c") }, []string{"ab", "", "\x00", "cb"}},
		"remove":             {func(disk *activitytest.FS) error { return disk.Remove("a") }, []string{"ab"}},
		"remove and sync":    {func(disk *activitytest.FS) error { return cmp.Or(disk.Remove("a"), syncDir(disk)) }, []string{"-"}},
		"rename":             {func(disk *activitytest.FS) error { return disk.Rename("b", "a") }, []string{"ab"}},
		"rename and sync":    {func(disk *activitytest.FS) error { return cmp.Or(disk.Rename("b", "a"), syncDir(disk)) }, []string{"B"}},
		"rename twice":       {func(disk *activitytest.FS) error { return cmp.Or(disk.Rename("a", "c"), disk.Rename("b", "a")) }, []string{"ab", "-", "B"}},
		"write, rename and sync": {func(disk *activitytest.FS) error {
			return cmp.Or(write(disk, "c", os.O_CREATE, "C"), disk.Rename("c", "a"), syncDir(disk))
		}, []string{"", "\x00"}},
		"new name": {func(disk *activitytest.FS) error {
			return cmp.Or(disk.Remove("a"), syncDir(disk), write(disk, "a", os.O_CREATE|os.O_SYNC, "new"))
		}, []string{"-"}},
	} {
		t.Run(name, func(t *testing.T) {
			got := map[string]bool{}
			names, _ := runs(t, activitytest.Plan{Kinds: activitytest.Crash, PowerLoss: true, RequireAll: true}, func(t *testing.T, w *activitytest.World, l *log) {
				dir := t.TempDir()
				for name, content := range map[string]string{"a": "ab", "b": "B"} {
					if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o666); err != nil {
						t.Fatal(err)
					}
				}
				disk := w.FS(dir)
				lives := 0
				live(t, w, job, func(ctx activity.Context) error {
					if lives++; lives > 1 {
						return nil
					}
					if err := test.do(disk); err != nil {
						return err
					}
					activitytest.Point(ctx, "here")
					return nil
				})
				if !strings.Contains(t.Name(), "power_loss_at_point_here") && !strings.Contains(t.Name(), "crash_at_point_here") {
					return
				}
				data, err := os.ReadFile(filepath.Join(dir, "a"))
				if errors.Is(err, fs.ErrNotExist) {
					data = []byte("-")
				}
				if strings.Contains(t.Name(), "power_loss") || slices.Contains(test.want, string(data)) {
					got[string(data)] = true
				}
			})
			if diff := gocmp.Diff(slices.Sorted(slices.Values(test.want)), slices.Sorted(maps.Keys(got))); diff != "" {
				t.Errorf("files (-want +got):\n%s\nafter %q", diff, names)
			}
		})
	}
}

func write(disk *activitytest.FS, name string, flag int, content string) error {
	f, err := disk.OpenFile(name, os.O_RDWR|flag, 0o666)
	if err != nil {
		return err
	}
	_, err = f.WriteString(content)
	return errors.Join(err, f.Close())
}

func syncDir(disk *activitytest.FS) error {
	dir, err := disk.Open(".")
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// Given a program that replaces a file with each step and records the step, when the power fails at any
// place, then the protocol passes, and each step that it leaves out is found, but not by a mere crash.
func TestFS_PowerLoss(t *testing.T) {
	for _, without := range []string{"", "sync", "directory"} {
		t.Run("without "+without, func(t *testing.T) {
			var failures []string
			kinds := activitytest.Crash
			if without == "" {
				kinds |= activitytest.Twice
			}
			plan := activitytest.Plan{Kinds: kinds, PowerLoss: true, MaxRuns: 700}
			_, got := runs(t, plan, func(t *testing.T, w *activitytest.World, l *log) {
				dir := t.TempDir()
				disk := w.FS(dir)
				live(t, w, job, func(ctx activity.Context) error {
					return activity.Range(ctx, 0, 2, func(i int) error {
						if i > 0 {
							data, err := disk.ReadFile("state")
							if err != nil && !errors.Is(err, fs.ErrNotExist) {
								return err
							}
							if s := string(data); s != fmt.Sprint("step ", i-1) && s != fmt.Sprint("step ", i) {
								l.add(fmt.Sprintf("step %d finds %q", i, data))
							}
						}
						return replaceFile(disk, "state", fmt.Sprint("step ", i), without)
					})
				})
				if data, _ := os.ReadFile(filepath.Join(dir, "state")); string(data) != "step 1" {
					l.add(fmt.Sprintf("at the end %q", data))
				}
			})
			for name, wrong := range got {
				if strings.Contains(name, "after_read") {
					t.Errorf("%s: a place after a call that changes nothing", name)
				}
				if len(wrong) > 0 {
					failures = append(failures, name)
				}
				if len(wrong) > 0 && (without == "" || !strings.Contains(name, "power_loss")) {
					t.Errorf("%s: %q", name, wrong)
				}
			}
			if without != "" && len(failures) == 0 {
				t.Error("no power loss has lost anything")
			}
		})
	}
}

// replaceFile replaces a file, and leaves out one step.
func replaceFile(disk *activitytest.FS, name, content, without string) error {
	f, err := disk.Create(name + ".new")
	if err != nil {
		return err
	}
	_, err = f.WriteString(content)
	if without != "sync" {
		err = cmp.Or(err, f.Sync())
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := disk.Rename(name+".new", name); err != nil || without == "directory" {
		return err
	}
	return syncDir(disk)
}

// Given calls that fail because of a Fault, then they change nothing, and a Write writes its first half.
func TestFS_Fault(t *testing.T) {
	_, got := runs(t, activitytest.Plan{Kinds: activitytest.Fault}, func(t *testing.T, w *activitytest.World, l *log) {
		disk := w.FS(t.TempDir())
		live(t, w, job, func(ctx activity.Context) error {
			err := write(disk, "a", os.O_CREATE|os.O_APPEND, "hell")
			if err == nil {
				err = disk.Rename("a", "b")
			}
			var path *fs.PathError
			if err != nil && (!errors.Is(err, activitytest.ErrFault) || !errors.As(err, &path) || path.Path == "") {
				t.Error(err)
			}
			for _, name := range []string{"a", "b"} {
				if data, e := disk.ReadFile(name); e == nil && err != nil {
					l.add(name + " " + string(data))
				}
			}
			return err
		})
	})
	for name, want := range map[string][]string{"fault_before_open_a_1": nil, "fault_before_write_a_1": {"a he"}, "fault_before_rename_a_to_b_1": {"a hell"}} {
		if diff := gocmp.Diff(want, got[name]); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	for name := range got {
		if strings.HasPrefix(name, "fault_after") {
			t.Errorf("%s: a local call that fails has not happened", name)
		}
	}
}

// opened returns the files in dir that this process has open, where the system tells.
func opened(dir string) (names []string) {
	fds, _ := os.ReadDir("/proc/self/fd")
	for _, fd := range fds {
		if name, _ := os.Readlink("/proc/self/fd/" + fd.Name()); strings.HasPrefix(name, dir+"/") {
			names = append(names, name)
		}
	}
	return names
}

// Given goroutines of a process that has crashed, then they write nothing any more, whether they have a
// context or not, and their files are closed.
func TestFS_DeadProcess(t *testing.T) {
	_, _ = runs(t, activitytest.Plan{Kinds: activitytest.Crash}, func(t *testing.T, w *activitytest.World, l *log) {
		dir := t.TempDir()
		disk := w.FS(dir)
		life := 0
		err := w.Run(func(ctx context.Context, rt *activity.Runtime) error {
			life++
			for _, open := range opened(dir) {
				t.Errorf("life %d begins, and %s is open", life, open)
			}
			name := fmt.Sprint("life ", life)
			f, err := disk.Create(name)
			if err != nil {
				return err
			}
			defer f.Close()
			go func() {
				go func() { // of whose parent nothing is known but that it is the process's
					for range 10 {
						if _, err := f.WriteString("."); err != nil {
							return
						}
					}
				}()
			}()
			return rt.Run(ctx, job, func(ctx activity.Context) error {
				if life == 1 {
					for range 3 {
						activitytest.Point(ctx, "here")
					}
				}
				return disk.Rename(name, "done")
			})
		})
		if err != nil {
			t.Fatal(err)
		}
		before, _ := os.ReadFile(filepath.Join(dir, "done"))
		if life == 2 {
			if err := os.RemoveAll(filepath.Join(dir, "life 1")); err != nil { // on Windows, no open file is removed
				t.Error(err)
			}
		}
		if after, _ := os.ReadFile(filepath.Join(dir, "done")); !slices.Equal(before, after) {
			t.Errorf("%q, then %q", before, after)
		}
	})
}

// Given a file that is renamed twice or moved to another directory, when the power fails, then it never has
// two names.
func TestFS_OneName(t *testing.T) {
	for name, do := range map[string]func(disk *activitytest.FS) error{
		"twice": func(disk *activitytest.FS) error { return cmp.Or(disk.Rename("b", "c"), disk.Rename("c", "d")) },
		"moved": func(disk *activitytest.FS) error {
			dir, err := disk.Open("sub")
			if err != nil {
				return err
			}
			defer dir.Close()
			return cmp.Or(write(disk, "c", os.O_CREATE|os.O_SYNC, "B"), disk.Remove("b"), disk.Rename("c", "sub/d"), dir.Sync(), write(disk, "x", os.O_CREATE, "x"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			runs(t, activitytest.Plan{Kinds: activitytest.Crash, PowerLoss: true}, func(t *testing.T, w *activitytest.World, l *log) {
				dir := t.TempDir()
				if err := errors.Join(os.Mkdir(filepath.Join(dir, "sub"), 0o777), os.WriteFile(filepath.Join(dir, "b"), []byte("B"), 0o666), os.Chmod(filepath.Join(dir, "b"), 0o666)); err != nil {
					t.Fatal(err)
				}
				disk, lives := w.FS(dir), 0
				live(t, w, job, func(ctx activity.Context) error {
					if lives++; lives > 1 {
						return nil
					}
					return do(disk)
				})
				var found []string
				for _, name := range []string{"b", "c", "d", "sub/d"} {
					if info, err := os.Stat(filepath.Join(dir, name)); err == nil {
						if found = append(found, name); name != "c" && strings.Contains(t.Name(), "twice") && info.Mode().Perm() != 0o666 && runtime.GOOS != "windows" {
							t.Errorf("%s has mode %s", name, info.Mode())
						}
					}
				}
				if most := map[bool]int{true: 1, false: 2}[strings.Contains(t.Name(), "twice")]; len(found) > most || slices.Contains(found, "c") && slices.Contains(found, "sub/d") {
					t.Errorf("the files are %q", found)
				}
				if strings.Contains(t.Name(), "_x_1") && !slices.Contains(found, "sub/d") {
					t.Errorf("the directory was synced, and the files are %q", found)
				}
			})
		})
	}
}

// Given two disks, when the power fails, then one may keep all of its changes while the other loses its.
func TestFS_TwoDisks(t *testing.T) {
	got := map[string]bool{}
	runs(t, activitytest.Plan{Kinds: activitytest.Crash, PowerLoss: true}, func(t *testing.T, w *activitytest.World, l *log) {
		data, marker := t.TempDir(), t.TempDir()
		a, b, lives := w.FS(data), w.FS(marker), 0
		live(t, w, job, func(ctx activity.Context) error {
			if lives++; lives > 1 {
				return nil
			}
			if err := cmp.Or(write(a, "data", os.O_CREATE, "d"), write(b, "marker", os.O_CREATE, "m")); err != nil {
				return err
			}
			activitytest.Point(ctx, "here")
			return nil
		})
		if strings.Contains(t.Name(), "power_loss_at_point_here") {
			d, _ := os.ReadFile(filepath.Join(data, "data"))
			m, _ := os.ReadFile(filepath.Join(marker, "marker"))
			got[string(d)+" "+string(m)] = true
		}
	})
	for _, want := range []string{" ", "d ", "d \x00"} {
		if !got[want] {
			t.Errorf("%q was not tried: %q", want, slices.Sorted(maps.Keys(got)))
		}
	}
}

// Given directories that are removed, files that the body changes between two processes, and a directory that
// is renamed, then a power loss can be made, or the FS refuses.
func TestFS_Directories(t *testing.T) {
	runs(t, activitytest.Plan{Kinds: activitytest.Crash, PowerLoss: true}, func(t *testing.T, w *activitytest.World, l *log) {
		dir := t.TempDir()
		if err := errors.Join(os.Mkdir(filepath.Join(dir, "sub"), 0o777), os.WriteFile(filepath.Join(dir, "sub", "a"), nil, 0o400), os.WriteFile(filepath.Join(dir, "cfg"), []byte("old"), 0o666)); err != nil {
			t.Fatal(err)
		}
		disk := w.FS(dir)
		live(t, w, activity.Options{ID: "one"}, func(ctx activity.Context) error {
			if err := disk.Rename("sub", "other"); !errors.Is(err, errors.ErrUnsupported) {
				t.Errorf("a directory is renamed: %v", err)
			}
			_, err := disk.ReadFile("cfg")
			return cmp.Or(err, write(disk, "cfg", os.O_SYNC, "old"))
		})
		if err := os.WriteFile(filepath.Join(dir, "cfg"), []byte("new"), 0o666); err != nil {
			t.Fatal(err)
		}
		live(t, w, activity.Options{ID: "two"}, func(ctx activity.Context) error {
			f, err := disk.OpenFile("cfg", os.O_RDWR, 0)
			if err != nil {
				return err
			}
			if data, err := io.ReadAll(f); string(data) != "new" && err == nil {
				t.Errorf("cfg is %q", data)
			}
			err = cmp.Or(f.Close(), disk.Remove("sub/a"))
			if err == nil || errors.Is(err, fs.ErrNotExist) {
				err = disk.Remove("sub")
			}
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			return err
		})
	})
}

// Given a goroutine whose parent has ended, when its process has crashed, then it writes nothing in the next
// life, to no file that it opens.
func TestFS_GrandchildOfDeadProcess(t *testing.T) {
	runs(t, activitytest.Plan{Kinds: activitytest.Crash}, func(t *testing.T, w *activitytest.World, l *log) {
		dir := t.TempDir()
		disk, lives := w.FS(dir), 0
		stop := make(chan struct{})
		err := w.Run(func(ctx context.Context, rt *activity.Runtime) error {
			lives++
			name := fmt.Sprint("log", lives)
			go func() {
				go func() {
					for {
						select {
						case <-time.After(time.Second):
							_ = write(disk, name, os.O_CREATE|os.O_APPEND, "x")
						case <-stop:
							return
						}
					}
				}()
			}()
			if lives == 2 {
				before, _ := os.ReadFile(filepath.Join(dir, "log1"))
				defer func() {
					if after, _ := os.ReadFile(filepath.Join(dir, "log1")); string(after) != string(before) {
						t.Errorf("life 1 has written %q after %q", after, before)
					}
				}()
			}
			return rt.Run(ctx, job, func(ctx activity.Context) error { return ctx.Sleep(5500 * time.Millisecond) })
		})
		close(stop)
		if err != nil {
			t.Error(err)
		}
	})
}

// Given a timer of a process that has crashed, then it does not write to a file that the process had open.
func TestFS_TimerOfDeadProcess(t *testing.T) {
	runs(t, activitytest.Plan{Kinds: activitytest.Crash}, func(t *testing.T, w *activitytest.World, l *log) {
		dir := t.TempDir()
		disk, lives := w.FS(dir), 0
		err := w.Run(func(ctx context.Context, rt *activity.Runtime) error {
			if lives++; lives == 1 {
				f, err := disk.Create("late")
				if err != nil {
					return err
				}
				defer f.Close()
				defer time.AfterFunc(10*time.Second, func() { _, _ = f.WriteString("x") }).Stop()
			}
			return rt.Run(ctx, job, func(ctx activity.Context) error { return ctx.Sleep(9 * time.Second) })
		})
		if err != nil {
			t.Error(err)
		}
		if got, err := os.ReadFile(filepath.Join(dir, "late")); lives == 2 && len(got) > 0 {
			t.Errorf("the dead process has written %q (%v)", got, err)
		}
		time.Sleep(time.Minute)
	})
}
