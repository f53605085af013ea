// Package sqlstore keeps the checkpoints of activities in a PostgreSQL or SQLite database, and
// lets a step and its progress commit together.
package sqlstore
