// Package stackdump finds the stacks of attempts' functions in a dump of all
// goroutines, for every engine. It also holds the limits of such dumps, because a dump
// stops the world and takes some 4 us for each goroutine.
package stackdump

import (
	"bytes"
	"fmt"
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

// A Dump holds stacks by the address of the receiver of the method that was asked for.
// They share the memory of the whole dump: a stack that is kept longer must be cloned.
type Dump map[string][]byte

// Take dumps all goroutines and keeps those that run method, which is written as in a
// dump: "activity.(*attempt).call". The method must not be inlined, and must keep its
// receiver alive. If a goroutine runs it several times, the outermost call counts,
// because user code may have a method of that name.
func Take(method string) Dump {
	var all []byte
	for size := (runtime.NumGoroutine() + 8) * 2048; ; size *= 2 {
		all = make([]byte, size)
		if n := runtime.Stack(all, true); n < size {
			all = all[:n]
			break
		}
	}
	d := Dump{}
	call := []byte(method + "(")
	for stack := range bytes.SplitSeq(all, []byte("\n\n")) {
		at := bytes.LastIndex(stack, call)
		if at < 0 {
			continue
		}
		receiver := stack[at+len(call):] // its address comes first
		if end := bytes.IndexAny(receiver, "?,)"); end > 0 {
			d[string(receiver[:end])] = stack
		}
	}
	return d
}

// Stack returns the stack of the goroutine that ran the method of receiver, a pointer.
// It is nil if there was none.
func (d Dump) Stack(receiver any) []byte { return d[fmt.Sprintf("%p", receiver)] }
