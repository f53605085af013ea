module github.com/seed-9da638b0/activity/ci

go 1.26.0

require golang.org/x/mod v0.43.0
