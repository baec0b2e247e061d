package history

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io/fs"

	bolt "go.etcd.io/bbolt"
)

// totalsBucket has, by domain name, the sums of all runs that were recorded, also of those
// whose entries went: a sum never gets smaller while the domain has an entry.
var totalsBucket = []byte("totals")

// Totals are the sums of all runs on the domains of one name. Sizes are bytes.
type Totals struct {
	Merged  int64          `json:"merged"`
	Freed   int64          `json:"freed"`
	Runs    map[string]int `json:"runs"`    // by result
	Refused map[string]int `json:"refused"` // runs that refused something, by code
}

// add takes in one entry, which stands for so many runs.
func (t *Totals) add(e *Entry, runs int) {
	if t.Runs == nil {
		t.Runs, t.Refused = map[string]int{}, map[string]int{}
	}
	if e.Command != "run" {
		return
	}
	t.Merged, t.Freed = t.Merged+e.Merged, t.Freed+e.Freed
	t.Runs[e.Result] += runs
	seen := map[string]bool{}
	for _, r := range e.Refused {
		if !seen[r.Code] {
			seen[r.Code] = true
			t.Refused[r.Code] += runs
		}
	}
}

// Totals returns the sums by domain name; none where there is no log yet.
func (s *Store) Totals() (map[string]Totals, error) {
	f, err := s.checked()
	if errors.Is(err, fs.ErrNotExist) {
		return map[string]Totals{}, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close() // keeps writers out until bbolt has the file, too
	var sums map[string]Totals
	err = s.with(true, func(db *bolt.DB) error {
		return db.View(func(tx *bolt.Tx) error {
			sums, err = readTotals(tx)
			return err
		})
	})
	return sums, err
}

func readTotals(tx *bolt.Tx) (map[string]Totals, error) {
	bucket := tx.Bucket(totalsBucket)
	if bucket == nil {
		return sumUp(tx.Bucket(runsBucket)), nil
	}
	sums := map[string]Totals{}
	err := bucket.ForEach(func(name, value []byte) error {
		t, err := decodeTotals(name, value)
		if err == nil {
			sums[string(name)] = *t
		}
		return err
	})
	return sums, err
}

// sumUp is for a log of a version that kept no sums.
func sumUp(runs *bolt.Bucket) map[string]Totals {
	sums := map[string]Totals{}
	if runs == nil {
		return sums
	}
	c := runs.Cursor()
	for key, value := c.First(); key != nil; key, value = c.Next() {
		if e, err := decode(key, value); err == nil {
			t := sums[e.Domain]
			t.add(e, e.Runs)
			sums[e.Domain] = t
		}
	}
	return sums
}

// count adds an entry to the sums of its domain. It is called before the entry is put.
func count(tx *bolt.Tx, e *Entry) error {
	bucket, err := totals(tx)
	if err != nil {
		return err
	}
	name := []byte(e.Domain)
	t, err := decodeTotals(name, bucket.Get(name))
	if err != nil {
		t = &Totals{} // a sum that cannot be read begins anew; entries count more
	}
	t.add(e, e.Runs)
	return putTotals(bucket, name, t)
}

// totals returns the bucket, which a log of an older version gets with the sums of its entries.
func totals(tx *bolt.Tx) (*bolt.Bucket, error) {
	if bucket := tx.Bucket(totalsBucket); bucket != nil {
		return bucket, nil
	}
	sums := sumUp(tx.Bucket(runsBucket))
	bucket, err := tx.CreateBucket(totalsBucket)
	for name, t := range sums {
		if err == nil {
			err = putTotals(bucket, []byte(name), &t)
		}
	}
	return bucket, err
}

// A value is what an entry's is: CRC-32C of the key and of the rest, big endian; JSON.
func putTotals(bucket *bolt.Bucket, name []byte, t *Totals) error {
	data, err := json.Marshal(t)
	if err != nil {
		return err
	}
	return bucket.Put(name, append(binary.BigEndian.AppendUint32(nil, checksum(name, data)), data...))
}

func decodeTotals(name, value []byte) (*Totals, error) {
	t := &Totals{}
	if value == nil {
		return t, nil
	}
	if len(value) < sumLen || binary.BigEndian.Uint32(value) != checksum(name, value[sumLen:]) {
		return nil, errChecksum
	}
	return t, json.NewDecoder(bytes.NewReader(value[sumLen:])).Decode(t)
}

// forgetTotals goes with the domain's last entry.
func forgetTotals(tx *bolt.Tx, name []byte) error {
	if bucket := tx.Bucket(totalsBucket); bucket != nil {
		return bucket.Delete(name)
	}
	return nil
}
