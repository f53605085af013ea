module github.com/seed-9da638b0/activity/examples

go 1.26.0

require (
	github.com/google/go-cmp v0.7.0
	github.com/rogpeppe/go-internal v1.16.0
	github.com/schollz/progressbar/v3 v3.19.1
	github.com/seed-9da638b0/activity v0.1.0
	github.com/seed-9da638b0/activity/boltstore v0.1.0
	golang.org/x/term v0.45.0
)

require (
	github.com/benbjohnson/clock v1.3.5 // indirect
	github.com/mitchellh/colorstring v0.0.0-20190213212951-d06e56a500db // indirect
	github.com/rivo/uniseg v0.4.7 // indirect
	go.etcd.io/bbolt v1.5.0 // indirect
	golang.org/x/sys v0.47.0 // indirect
	golang.org/x/tools v0.36.0 // indirect
)

replace (
	github.com/seed-9da638b0/activity => ../
	github.com/seed-9da638b0/activity/boltstore => ../boltstore
)
