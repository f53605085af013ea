// Package heartbeatdetails decides for every engine which heartbeats have details.
package heartbeatdetails

import "reflect"

// Given reports whether the arguments of a heartbeat are details. No arguments are none, nor
// is a single nil or nil pointer, because an attempt could not resume from it.
func Given(details []any) bool {
	switch {
	case len(details) != 1:
		return len(details) > 1
	case details[0] == nil:
		return false
	}
	if _, isInt := details[0].(int); isInt { // the usual case
		return true
	}
	p := reflect.ValueOf(details[0])
	return p.Kind() != reflect.Pointer || !p.IsNil()
}
