package vfs

import (
	"cmp"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Racy is how much older than now the last change of a file or directory must be for what was
// read of it to be remembered: one within the same tick of the clock could not be seen.
const Racy = 2 * time.Second

// A ListCache lists directories of the real file system. It remembers what it has listed, and
// lists a directory again when its times tell that a name came or went. These are asked of the
// server where there is one. The zero value is ready; several goroutines may use it.
type ListCache struct {
	mu    sync.Mutex // guards known
	known map[string]listed
	racy  time.Duration // 0: Racy

	refresh func(dir string, flag int) // nil: what the kernel does
}

// A listed is a listing, and what the directory looked like before it was made.
type listed struct {
	Listing
	stamp dirStamp
}

// A dirStamp is another one whenever what a directory holds is.
type dirStamp struct {
	id               ID
	changed, written int64 // nanoseconds since 1970
}

// List is as that of OS.
func (c *ListCache) List(dir string, on uint64, most int) (Listing, error) {
	look, flag, ask := os.Stat, 0, c.refresh
	if on != 0 {
		look, flag = os.Lstat, unix.AT_SYMLINK_NOFOLLOW
	}
	if ask == nil {
		ask = refresh
	}
	ask(dir, flag)
	fi, err := look(dir)
	if err != nil || !fi.IsDir() {
		return OS().List(dir, on, most)
	}
	stamp := stampOf(fi)
	if l, known := c.remembered(dir, stamp); known && len(l.Entries) <= most && (on == 0 || stamp.id.Dev == on) {
		return l, nil
	}
	l, err := OS().List(dir, on, most)
	if err == nil && !l.More && time.Since(time.Unix(0, stamp.changed)) > cmp.Or(c.racy, Racy) {
		c.remember(dir, listed{l, stamp})
	}
	return l, err
}

func stampOf(fi os.FileInfo) dirStamp {
	s := dirStamp{id: infoOf(fi).ID, written: fi.ModTime().UnixNano()}
	if sys, ok := fi.Sys().(*syscall.Stat_t); ok {
		s.changed = sys.Ctim.Nano()
	}
	return s
}

func (c *ListCache) remembered(dir string, stamp dirStamp) (Listing, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	l, known := c.known[dir]
	return l.Listing, known && l.stamp == stamp
}

func (c *ListCache) remember(dir string, l listed) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.known == nil {
		c.known = map[string]listed{}
	}
	c.known[dir] = l
}
