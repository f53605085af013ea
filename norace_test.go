//go:build !race

package activity_test

const raceEnabled = false
