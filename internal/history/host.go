package history

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"io/fs"
	"time"

	bolt "go.etcd.io/bbolt"
)

// hostBucket has what is about the host as a whole.
var hostBucket = []byte("host")

// runKey is where its runs are.
var runKey = []byte("runs")

// HostRuns are the runs of the host.
type HostRuns struct {
	Start time.Time `json:"start"` // of the last one
	End   time.Time `json:"end"`
	Count int       `json:"count"` // all there were
}

// Ran notes that a run of the host is over. The caller holds the lock of a run.
func (s *Store) Ran(start, end time.Time) error {
	if err := s.create(); err != nil {
		return err
	}
	f, err := s.checked()
	if err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	s.sound = nil
	return s.with(false, func(db *bolt.DB) error {
		return db.Update(func(tx *bolt.Tx) error {
			bucket, err := tx.CreateBucketIfNotExists(hostBucket)
			if err != nil {
				return err
			}
			runs := readRuns(bucket)
			data, err := json.Marshal(HostRuns{start.UTC(), end.UTC(), runs.Count + 1})
			if err != nil {
				return err
			}
			return bucket.Put(runKey, append(binary.BigEndian.AppendUint32(nil, checksum(runKey, data)), data...))
		})
	})
}

// HostRuns returns what Ran has noted; nothing where that cannot be read.
func (s *Store) HostRuns() (runs HostRuns, err error) {
	f, err := s.checked()
	if errors.Is(err, fs.ErrNotExist) {
		return runs, nil
	}
	if err != nil {
		return runs, err
	}
	defer f.Close() // keeps writers out until bbolt has the file, too
	err = s.with(true, func(db *bolt.DB) error {
		return db.View(func(tx *bolt.Tx) error {
			if bucket := tx.Bucket(hostBucket); bucket != nil {
				runs = readRuns(bucket)
			}
			return nil
		})
	})
	return runs, err
}

func readRuns(bucket *bolt.Bucket) (runs HostRuns) {
	value := bucket.Get(runKey)
	if len(value) < sumLen || binary.BigEndian.Uint32(value) != checksum(runKey, value[sumLen:]) ||
		json.Unmarshal(value[sumLen:], &runs) != nil {
		return HostRuns{}
	}
	return runs
}
