// Package boltstore keeps the checkpoints of activities in one local file. Its [Store] is an
// [activity.Store] on [go.etcd.io/bbolt], which needs no server.
//
//	store, err := boltstore.Open("activities.db", nil)
//	if err != nil {
//		return err
//	}
//	defer store.Close() // after the Runtime's Shutdown
//	rt := activity.New(activity.Config{Store: store})
//
// # One process at a time
//
// An open Store locks its file against other processes and against other Stores in the same
// process. Give a Store to one Runtime. If the file is locked, Open waits for up to
// [Options.LockTimeout], 0.5 s by default, and then returns [ErrInUse]. With [Options.ReadOnly],
// several Stores can have the file open, but none can change it.
//
// Other programs must not copy the file while a Store has it open, because the copy may mix
// several states. [Store.WriteTo] makes a consistent copy while activities run.
//
// # Looking at a file
//
// The command activities lists, shows, checks, deletes, exports and copies the checkpoints in a
// file that no program has open, for example after a crash:
//
//	go run github.com/seed-9da638b0/activity/boltstore/cmd/activities ls activities.db
//
// # Durability
//
// When Save or Delete returns nil, the change survives the end of the process and a loss of
// power. Each call is one bbolt transaction, which is synced to the disk. Open syncs the
// file's name in its directory as well. A transaction costs two fdatasync calls. A Save of
// many checkpoints takes hardly longer than a Save of one. All of this requires that the file
// system and the disk really write what they report as written. A network file system may not
// do so, and may not support locks. Use a local one.
//
// A checkpoint may have at most 500 MiB. Save refuses a larger one.
//
// On a full disk, Save and Delete return an error and change nothing. They work again once
// there is space. After a failed sync, the content of the disk is unknown. From then on every
// method returns an error, until the file is closed and opened again.
//
// While the file is open, it grows to the largest amount that was stored at one time. It does
// not shrink, but free space is reused. bbolt writes the list of free pages with every commit,
// so each Save costs more after many checkpoints were stored and deleted. If most of the file
// is free, Open repairs this, except on Windows. It copies the rest into a new file with the
// same mode and owner, which replaces the old one. Open does so if three quarters of the file
// and at least 16 MiB are free, or half of it and at least 64 MiB. If this is not possible,
// for example because the disk is full or the file has a second name, Open keeps the file as
// it is.
//
// An Input of more than 1 KiB is stored separately from the rest of its checkpoint and written
// only when it changes. The rest is written with every Save. bbolt writes whole pages, so a
// Save also writes the checkpoints with neighboring IDs, including their Details.
//
// If the open file is removed, renamed or replaced, the next Save or Delete returns an error,
// and so does every later call of any method.
//
// # Damaged files
//
// bbolt trusts its file. So before using bbolt, Open reads and checks the whole file itself.
// If the file is truncated, damaged or not a Store's, Open returns an error that names the
// file, and does not change it. Replace it with a good copy, or move it away to start with an
// empty Store. The command "bbolt surgery" may recover parts of it. Open treats only a file of
// length 0 as new. If a process is killed while Open creates or compacts a file, or while
// WriteTo copies one, it can leave a file beside it with ".new", ".compact" or ".copy" in its
// name. Delete that when no Store is open.
//
// If one of the two meta pages is damaged, bbolt uses the other, which may be one commit
// older. bbolt cannot tell this from a commit that a loss of power interrupted.
//
// A damaged record is found when it is read. Load returns an error that names the ID. All
// yields all other checkpoints and then an error that names every such ID. Save replaces a
// damaged record, and Delete removes it.
//
// If the file is truncated while it is open, a method that reads the missing part returns an
// error, and so does every later call of any method.
//
// # The file
//
// The file is a bbolt file of format 2. It has the bucket "activity checkpoints 1" and, while
// there are large inputs, the bucket "activity checkpoints inputs 1". The 1 is the version of
// the format that follows. The keys of the first bucket are the IDs, and the values are the
// records. The sequence number of each bucket is the sum, modulo 2^64, of a hash for each key:
// the 64-bit FNV-1a hash of the key and the first 5 bytes of its value. A record is
//
//	version      1 byte: 4 if there is a Header, otherwise 3 if the input is stored separately, otherwise 2
//	checksum     4 bytes, big-endian: CRC-32C of the ID and everything that follows
//	Name         bytes
//	State        varint
//	Attempt      varint
//	CountedFrom  varint
//	Progressed   varint
//	Sequence     uvarint
//	ScheduledAt  varint, seconds since 1970, and uvarint, nanoseconds below 1e9
//	UpdatedAt    as ScheduledAt
//	Input        bytes
//	Details      bytes
//	LastFailure  bytes
//	NextAttempt  as ScheduledAt; absent in version 1
//	Header       uvarint, the number of pairs, then for each the key and the value, as bytes, in
//	             the order of the keys; only in version 4
//	input sum    uvarint: CRC-32C of the ID and the separate input; only in version 3 and 4
//	input size   uvarint: length of the separate input in bytes, in version 4 0 if the input is
//	             not separate; only in version 3 and 4
//
// A separate input is stored in pieces of 8 KiB. The key of a piece consists of the length of
// the ID as a uvarint, the ID, and the number of the piece in 4 bytes, big-endian. A piece is
//
//	version      1 byte: 1
//	checksum     4 bytes, big-endian: CRC-32C of the key and everything that follows
//	bytes        of the input
//
// A varint or uvarint is encoded as in [encoding/binary]. A field of bytes is a uvarint and then
// the bytes; the uvarint is 0 for nil, and otherwise the number of bytes plus 1. Times come
// back in UTC. A record of a higher version and a bucket of another version are refused.
package boltstore
