// Package activity is an embedded, in-process activity runtime.
package activity
