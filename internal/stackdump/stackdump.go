// Package stackdump finds the stacks of attempts' functions in a dump of all
// goroutines, for every engine. It also holds the limits of such dumps, because a dump
// stops the world and takes some 4 us for each goroutine.
package stackdump

import (
	"bytes"
	"fmt"
	"reflect"
	"runtime"
	"time"
)

const (
	// MaxGoroutines is the number of goroutines above which no dump is taken.
	MaxGoroutines = 4000

	// Share bounds the time that dumps take: at most one part in Share.
	Share = 20
)

// Rest returns how long no dump is taken after one that took so long.
func Rest(took time.Duration) time.Duration { return took * (Share - 1) }

// A Dump holds stacks by the address of the attempt that they belong to.
type Dump map[string][]byte

// WorkFor calls f. Until f returns, dumps count the calling goroutine as one that works for
// attempt. If attempt is not a pointer, no dump finds it.
func WorkFor(attempt any, f func()) {
	address := uintptr(0)
	if v := reflect.ValueOf(attempt); v.Kind() == reflect.Pointer {
		address = v.Pointer()
	}
	workFor(address, f)
}

const workForFrame = "stackdump.workFor"

// workFor must not be inlined, and must keep its first argument alive, so that a dump prints
// it reliably.
//
//go:noinline
func workFor(address uintptr, f func()) {
	f()
	runtime.KeepAlive(address)
}

// Take dumps all goroutines and keeps those that run method, which is written as in a
// dump: "activity.(*attempt).call", and those that work for one of its receivers. The method
// must not be inlined, and must keep its receiver alive. If a goroutine runs it several times,
// the outermost call counts, because user code may have a method of that name.
func Take(method string) Dump {
	var all []byte
	for size := (runtime.NumGoroutine() + 8) * 2048; ; size *= 2 {
		all = make([]byte, size)
		if n := runtime.Stack(all, true); n < size {
			all = all[:n]
			break
		}
	}
	stacks := map[string][][]byte{}
	own := map[string][]byte{}
	separator := []byte("\n\n")
	for stack := range bytes.SplitSeq(bytes.TrimSuffix(all, []byte("\n")), separator) {
		if attempt, ok := firstArgument(stack, method); ok {
			own[attempt] = stack
		} else if attempt, ok := firstArgument(stack, workForFrame); ok {
			stacks[attempt] = append(stacks[attempt], stack)
		}
	}
	for attempt, stack := range own {
		stacks[attempt] = append(stacks[attempt], stack)
	}
	d := Dump{}
	for attempt, stacks := range stacks {
		d[attempt] = bytes.Join(stacks, separator) // a copy, because the whole dump must not be kept
	}
	return d
}

// firstArgument returns the first argument of the outermost call of function in stack, which
// is its receiver if it is a method.
func firstArgument(stack []byte, function string) (argument string, found bool) {
	call := []byte(function + "(")
	at := bytes.LastIndex(stack, call)
	if at < 0 {
		return "", false
	}
	arguments := stack[at+len(call):]
	end := bytes.IndexAny(arguments, "?,)")
	if end <= 0 {
		return "", false
	}
	return string(arguments[:end]), true
}

// Stack returns the stacks of the goroutines that worked for attempt, a pointer, and then that
// of the goroutine that ran its method, with empty lines between them. The last one usually
// waits for the others. It is nil if there were none, and must not be changed.
func (d Dump) Stack(attempt any) []byte { return d[fmt.Sprintf("%p", attempt)] }
