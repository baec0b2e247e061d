package xapitest

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/http"
	"unicode/utf16"

	"github.com/virt-rotate/virt-rotate/vhdbridge/vhd"
)

const (
	block     = 2 << 20
	table     = 2048 // where vhd-tool puts it: an empty sector for the name of a parent is before
	sector    = 512
	headerAt  = 512
	headerLen = 1024
)

// export sends a disk as xapi does: headers first, no length, and an error ends the
// connection.
func (s *Server) export(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	q := r.URL.Query()
	vdi, base := s.ref(q.Get("vdi")), s.ref(q.Get("base"))
	s.calls = append(s.calls, fmt.Sprintf("export %s base=%s", vdi, base))
	f := s.fault("export", vdi)
	valid, disk := s.sessions[q.Get("session_id")], s.disks[vdi]
	below, known := s.disks[base]
	redirect := s.Redirect
	s.mu.Unlock()
	switch {
	case redirect != "":
		w.Header().Set("Location", "https://"+redirect+r.URL.RequestURI())
		w.WriteHeader(http.StatusFound)
		return
	case f != nil && f.Status != 0:
		http.Error(w, "<html><body><h1>HTTP error</h1> out of order</body></html>", f.Status)
		return
	case !valid:
		http.Error(w, "<html><body><h1>HTTP 401 unauthorised</h1></body></html>", http.StatusUnauthorized)
		return
	case q.Get("format") != "vhd" || disk.Content == nil || q.Has("base") && !known:
		http.Error(w, "<html><body><h1>HTTP 500 internal server error</h1></body></html>", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/vhd")
	w.Header().Set("Connection", "close")
	w.WriteHeader(http.StatusOK)
	w.(http.Flusher).Flush() //nolint:forcetypeassert // httptest's is one
	if q.Has("base") && (disk.Raw || below.Raw) {
		panic(http.ErrAbortHandler) // "Cannot compute differences on non-VHD images"
	}
	stream := Stream(disk.Content, nil)
	if q.Has("base") {
		stream = Stream(disk.Content, below.Content)
	}
	if f != nil && f.Damage != nil {
		stream = f.Damage(stream)
	}
	if f != nil && f.Cut > 0 {
		stream = stream[:min(f.Cut, int64(len(stream)))]
	}
	n, _ := w.Write(stream) // whoever asks sees it
	s.mu.Lock()
	s.took[vdi] += int64(n)
	s.mu.Unlock()
	if f != nil && f.Cut > 0 {
		panic(http.ErrAbortHandler)
	}
}

// ref takes a UUID for the reference.
func (s *Server) ref(name string) string {
	for ref, r := range s.tables["VDI"] {
		if r["uuid"] == name {
			return ref
		}
	}
	return name
}

// Stream is a disk as vhd-tool streams it: the footer, the header, a sector of zeros, the
// table, whole blocks with bitmaps of ones, the footer. With below it is a difference, of all
// blocks in which the two differ; its one locator says that a name is in the sector of zeros,
// and its parent is a device of the host.
func Stream(content, below []byte) []byte {
	entries := (len(content) + block - 1) / block
	foot, head := footers(len(content), below != nil, entries)
	tableLen := (entries*4 + sector - 1) / sector * sector
	bat := bytes.Repeat([]byte{0xFF}, tableLen)
	var blocks []byte
	at := table + tableLen
	for i := range entries {
		have := padded(content, i)
		if bytes.Equal(have, padded(below, i)) {
			continue
		}
		binary.BigEndian.PutUint32(bat[i*4:], uint32((at+len(blocks))/sector))
		blocks = append(append(blocks, bytes.Repeat([]byte{0xFF}, sector)...), have...)
	}
	out := append(append(append([]byte{}, foot...), head...), make([]byte, sector)...)
	out = append(append(append(out, bat...), blocks...), foot...)
	return out
}

// padded is the i-th block of a disk, with zeros behind its end.
func padded(content []byte, i int) []byte {
	if (i+1)*block <= len(content) {
		return content[i*block : (i+1)*block]
	}
	b := make([]byte, block)
	if i*block < len(content) {
		copy(b, content[i*block:])
	}
	return b
}

// footers are the footer and the header.
func footers(size int, differs bool, entries int) (foot, head []byte) {
	be := binary.BigEndian
	foot, head = make([]byte, sector), make([]byte, headerLen)
	copy(foot, "conectix")
	be.PutUint32(foot[8:], 2)
	be.PutUint32(foot[12:], 0x10000)
	be.PutUint64(foot[16:], headerAt)
	copy(foot[28:], "caml\x00\x00\x00\x01")
	be.PutUint64(foot[40:], uint64(size))
	be.PutUint64(foot[48:], uint64(size))
	be.PutUint32(foot[60:], 3)
	id := vhd.NewUUID()
	copy(foot[68:], id[:])
	copy(head, "cxsparse")
	be.PutUint64(head[8:], ^uint64(0))
	be.PutUint64(head[16:], table)
	be.PutUint32(head[24:], 0x10000)
	be.PutUint32(head[28:], uint32(entries))
	be.PutUint32(head[32:], block)
	if differs {
		be.PutUint32(foot[60:], 4)
		parent(head)
	}
	be.PutUint32(foot[64:], sum(foot))
	be.PutUint32(head[36:], sum(head))
	return foot, head
}

// parent is a device of a host, at a place where nothing is.
func parent(head []byte) {
	const path = "/dev/mapper/VG_XenStorage--0--VHD--1"
	be := binary.BigEndian
	id := vhd.NewUUID()
	copy(head[40:], id[:])
	for i, u := range utf16.Encode([]rune(path)) {
		be.PutUint16(head[64+2*i:], u)
	}
	copy(head[576:], "MacX")
	be.PutUint32(head[580:], sector)
	be.PutUint32(head[584:], uint32(len("file://"+path)))
	be.PutUint64(head[592:], 1536)
}

// sum is the checksum of what has none yet.
func sum(b []byte) uint32 {
	n := uint32(0)
	for _, c := range b {
		n += uint32(c)
	}
	return ^n
}
