module github.com/seed-9da638b0/activity/sqlstore

go 1.25.0

require github.com/seed-9da638b0/activity v0.1.0

require github.com/benbjohnson/clock v1.3.5 // indirect

replace github.com/seed-9da638b0/activity => ../
