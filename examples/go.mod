module github.com/seed-9da638b0/activity/examples

go 1.25.0

require github.com/seed-9da638b0/activity v0.1.0

replace github.com/seed-9da638b0/activity => ../
