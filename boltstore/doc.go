// Package boltstore keeps the checkpoints of activities in one local file, by
// way of [go.etcd.io/bbolt]: an [activity.Store] without a server.
//
//	store, err := boltstore.Open("activities.db", nil)
//	if err != nil {
//		return err
//	}
//	defer store.Close() // after the Runtime's Shutdown
//	rt := activity.New(activity.Config{Store: store})
//
// # One at a time
//
// The file is locked while a Store has it open, by one process and one Store in
// it; give it to one Runtime. Another Open waits up to [Options.LockTimeout], 0.5 s
// by default, and then fails with [ErrInUse]. Copy the file only while no Store has
// it open.
//
// # Durability
//
// What Save and Delete have returned nil for survives the end of the process and
// a loss of power: each is one bbolt transaction that is synced to the disk, and
// so is the file's name in its folder. That costs two fdatasync calls, whose time
// is the disk's; one Save of many checkpoints costs hardly more than of one. It
// holds as far as the file system and the disk keep to what they have said they
// wrote. A network file system may not, nor know locks: use a local one.
//
// A checkpoint may have at most 500 MiB; Save refuses a larger one.
//
// On a full disk Save and Delete fail and change nothing, and work again once
// there is space. After a failed sync nobody knows what the disk has: every
// method fails from then on, until the file is closed and opened anew.
//
// While the file is open it grows with what is stored at one time, and does not shrink;
// the space is used again. bbolt writes the list of the free space with every commit, so
// after a backlog each Save costs more. Open mends that, except on Windows: if three
// quarters of the file are free, and at least 16 MiB, or half of it, and at least 64 MiB,
// it rewrites the file into a new one, with the same mode and owner, which then takes its
// name. If it cannot, because the disk is full, for instance, or because the file has a
// second name, it leaves the file as it is.
//
// An Input of more than 1 KiB is kept apart from the rest of its checkpoint, and written
// only when it changes. The rest is written with every Save, and so are large Details
// of checkpoints that are next to it in the order of their IDs, because bbolt writes pages
// as a whole.
//
// If the path no longer names the open file, because that was removed, renamed or replaced,
// the next Save or Delete returns an error, and so does every method from then on.
//
// # Damaged files
//
// bbolt trusts its file. So Open first reads all of it, without bbolt, and refuses
// a file that is truncated, is damaged or is something else, with an error that
// names it; it is left as it is. Put a copy of a sound file in its place, or
// move it away, which makes every activity that was in it begin anew. The command
// bbolt surgery may save some of it. Only a file of length 0 is taken for a new
// one. A process that is killed while Open creates or compacts a file can leave
// another beside it, with ".new" or ".compact" in its name. Delete it when no Store is open.
//
// A file of which one of its two meta pages is damaged is read as of the
// other, which may be one commit older: to bbolt that is a commit that a loss of
// power cut short.
//
// A record that is damaged inside is found when it is read: Load returns an error
// that names the ID, and All, once it has yielded the others, one that names all
// such IDs. Save replaces it, and Delete removes it.
//
// A file that somebody truncates while it is open makes the methods that read
// what is missing return an error, and every method from then on.
//
// # The file
//
// A bbolt file of format 2, with the bucket "activity checkpoints 1" and, while there are
// large inputs, "activity checkpoints inputs 1": 1 is the version of what follows. The keys
// of the first are the IDs, its values the records. The sequence number of a bucket is the
// sum, modulo 2^64, of the 64-bit FNV-1a hash of each key and the first 5 bytes of its
// value. A record is
//
//	version      1 byte: 2, or 3 if the input is kept apart
//	checksum     4 bytes, big-endian: CRC-32C of the ID and of all that follows
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
//	NextAttempt  as ScheduledAt; records of version 1 end before it
//	input sum    uvarint: CRC-32C of the ID and the input that is kept apart; in version 3
//	input size   uvarint: its number of bytes; in version 3
//
// Such an input is stored in pieces of 8 KiB. The key of a piece is the length of the ID as
// a uvarint, the ID, and the number of the piece in 4 bytes, big-endian. A piece is
//
//	version      1 byte: 1
//	checksum     4 bytes, big-endian: CRC-32C of the key and of all that follows
//	bytes        of the input
//
// where varint and uvarint are those of [encoding/binary], and bytes are a uvarint,
// 0 for nil or else their number plus 1, and then themselves. Times come back in
// UTC. A record whose version is higher, and a bucket of another version, are
// refused, never guessed at.
package boltstore
