package snapcache

import (
	"os"
	"sync"
	"time"
)

// A Source is where libvirt keeps its files.
type Source struct {
	Dir  *os.File // the directory of the domains' directories
	Life string   // the life of the process that reads them once and answers from memory
}

// mostDomains is how many are kept; the rest is asked for.
const mostDomains = 10_000

// A Cache remembers a T for each domain. Several goroutines may use it; a nil one knows nothing.
type Cache[T any] struct {
	path   string
	source Source
	clock  func() time.Time

	mu    sync.Mutex           // guards all below
	known map[string]record[T] // by the domain's name: as the file has it
	seen  map[string]record[T] // of this look
	news  bool                 // seen has what the file does not
	saved time.Time
}

// A record is what was told of one domain's snapshots.
type record[T any] struct {
	UUID  string `json:"uuid"`
	Proof []byte `json:"proof"`
	Value T      `json:"value"`
}

// Open reads the cache. A file that is not there, not whole, not this user's own, of another life, or too large is
// an empty one.
func Open[T any](path string, s Source) *Cache[T] {
	c := &Cache[T]{path: path, source: s, clock: time.Now, known: map[string]record[T]{}, seen: map[string]record[T]{}}
	c.saved = c.clock()
	if known, err := load[T](path, s.Life); err == nil {
		c.known = known
	}
	return c
}

// Look is the proof of the domain's snapshots as it is now.
func (c *Cache[T]) Look(domain string, snapshots []string) Proof {
	if c == nil {
		return Proof{}
	}
	return look(c.source.Dir, domain, snapshots, c.clock())
}

// Known is what was told of the domain when the proof was the same. It belongs to the cache: nobody changes it.
func (c *Cache[T]) Known(domain, uuid string, now Proof) (value T, known bool) {
	if c == nil || !now.proves() {
		return value, false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, records := range []map[string]record[T]{c.seen, c.known} {
		if r, there := records[domain]; there && r.UUID == uuid && string(r.Proof) == string(now.digest[:]) {
			c.seen[domain] = r
			return r.Value, true
		}
	}
	return value, false
}

// Learn keeps what was told after a look. If something changed in between, no later look is like that one.
func (c *Cache[T]) Learn(domain, uuid string, before Proof, value T) {
	if c == nil || uuid == "" || !before.proves() {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, there := c.seen[domain]; there || len(c.seen) < mostDomains {
		c.seen[domain] = record[T]{uuid, before.digest[:], value}
		c.news = true
	}
}

// saveEach is how much may be learned until it is kept: who has no patience finds it the next time.
const saveEach = 2 * time.Second

// SaveNowAndThen keeps what was learned, and what was known of domains that were not looked at yet.
func (c *Cache[T]) SaveNowAndThen() {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.news && c.clock().Sub(c.saved) >= saveEach {
		c.save(false)
	}
}

// Save keeps what was seen. With all, every domain of the host was looked at: what was not seen is forgotten.
func (c *Cache[T]) Save(all bool) {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.news || all && len(c.seen) != len(c.known) {
		c.save(all)
	}
}

// save writes the file. One that cannot be written is not there the next time, or is the old one.
func (c *Cache[T]) save(all bool) {
	records := c.seen
	if !all {
		records = map[string]record[T]{}
		for _, from := range []map[string]record[T]{c.known, c.seen} {
			for name, r := range from {
				records[name] = r
			}
		}
	}
	if len(records) <= mostDomains && store(c.path, c.source.Life, records) == nil {
		c.news = false
	}
	c.saved = c.clock()
}
