// Package xapitest is a XenServer host for tests: it speaks the XenAPI over HTTPS as its
// documentation says, streams disks as vhd-tool does, and fails as it is told.
package xapitest

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
)

// A Record is an object of the pool: fields by name, as the API has them.
type Record map[string]any

// A Disk is what a VDI has.
type Disk struct {
	Content []byte // of the whole disk
	// Raw repositories have no VHDs, and cannot tell what has changed since another disk.
	Raw bool
}

// A Server is a host, with the pool's database.
type Server struct {
	*httptest.Server
	Password string
	Master   string // if not "", this host is another one's slave
	Redirect string // if not "", disks are with the host of that address

	mu       sync.Mutex
	tables   map[string]map[string]Record // class → reference → record
	disks    map[string]Disk              // by reference of the VDI
	sessions map[string]bool
	calls    []string
	next     int
	faults   []Fault
	took     map[string]int64 // bytes of disks sent, by reference
}

// A Fault is what goes wrong, once, at a call of that method or, with "export", at a disk.
type Fault struct {
	Method string
	VDI    string // reference; "" for any
	Status int    // of HTTP, in the place of an answer
	Expire bool   // the session is invalid from now on
	Cut    int64  // the connection is dropped after so many bytes of a disk
	Damage func(stream []byte) []byte
	Always bool // not only once
}

// New starts a host without guests, whose root has the password "secret".
func New(t testing.TB) *Server {
	s := &Server{Password: "secret", tables: map[string]map[string]Record{"VM": {}, "VBD": {}, "VDI": {}, "VM_metrics": {}},
		disks: map[string]Disk{}, sessions: map[string]bool{}, took: map[string]int64{}}
	s.Server = httptest.NewUnstartedServer(s)
	s.Config.ErrorLog = quiet()
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

// Fingerprint is that of the certificate.
func (s *Server) Fingerprint() string {
	sum := sha256.Sum256(s.Certificate().Raw)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// PEM is the certificate as a file has it; Pool holds it.
func (s *Server) PEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
}

// Pool holds the certificate.
func (s *Server) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(s.Certificate())
	return pool
}

// Put adds or replaces a record.
func (s *Server) Put(class, ref string, r Record) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tables[class][ref] = r
}

// Drop removes a record.
func (s *Server) Drop(class, ref string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.tables[class], ref)
}

// Fill sets what a disk has.
func (s *Server) Fill(vdi string, d Disk) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.disks[vdi] = d
}

// Fail adds a fault.
func (s *Server) Fail(f Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = append(s.faults, f)
}

// Calls are the methods that were called, and the disks that were asked for, in order.
func (s *Server) Calls() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string{}, s.calls...)
}

// Sent is how many bytes of disks were sent in all.
func (s *Server) Sent() (n int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, k := range s.took {
		n += k
	}
	return n
}

// Sessions is how many are open.
func (s *Server) Sessions() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.sessions)
}

// fault takes the next one of that method and disk; nil: all is well.
func (s *Server) fault(method, vdi string) *Fault {
	for i, f := range s.faults {
		if f.Method == method && (f.VDI == "" || f.VDI == vdi) {
			if !f.Always {
				s.faults = append(s.faults[:i:i], s.faults[i+1:]...)
			}
			if f.Expire {
				clear(s.sessions)
			}
			return &f
		}
	}
	return nil
}

// ServeHTTP answers as xapi does.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.Method == http.MethodPost && r.URL.Path == "/jsonrpc":
		s.rpc(w, r)
	case r.Method == http.MethodGet && r.URL.Path == "/export_raw_vdi":
		s.export(w, r)
	default:
		http.Error(w, "<html><body><h1>404</h1></body></html>", http.StatusNotFound)
	}
}

type request struct {
	Version string `json:"jsonrpc"`
	Method  string `json:"method"`
	Params  []any  `json:"params"`
	ID      any    `json:"id"`
}

func (s *Server) rpc(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var q request
	if err := json.NewDecoder(r.Body).Decode(&q); err != nil || q.Version != "2.0" || q.ID == nil {
		http.Error(w, "<html><body><h1>HTTP 500 internal server error</h1>Jsonrpc.Malformed_method_request</body></html>", http.StatusInternalServerError)
		return
	}
	s.calls = append(s.calls, q.Method)
	if f := s.fault(q.Method, ""); f != nil && f.Status != 0 {
		http.Error(w, "<html><body><h1>HTTP error</h1> out of order</body></html>", f.Status)
		return
	}
	result, code, params := s.answer(&q)
	reply := map[string]any{"jsonrpc": "2.0", "id": q.ID}
	if code != "" {
		reply["error"] = map[string]any{"code": 1, "message": code, "data": params}
	} else {
		reply["result"] = result
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(reply) // whoever asks sees it
}

// answer is the result of a call, or the code of an error.
func (s *Server) answer(q *request) (result any, code string, params []string) {
	text := func(i int) string {
		if i >= len(q.Params) {
			return ""
		}
		return fmt.Sprint(q.Params[i])
	}
	if q.Method == "session.login_with_password" {
		switch {
		case s.Master != "":
			return nil, "HOST_IS_SLAVE", []string{s.Master}
		case text(0) != "root" || text(1) != s.Password:
			return nil, "SESSION_AUTHENTICATION_FAILED", []string{text(0), "Authentication failure"}
		}
		return s.newSession(), "", nil
	}
	if !s.sessions[text(0)] {
		return nil, "SESSION_INVALID", []string{text(0)}
	}
	class, method, _ := strings.Cut(q.Method, ".")
	switch {
	case q.Method == "session.logout":
		delete(s.sessions, text(0))
		return "", "", nil
	case method == "get_all_records" && s.tables[class] != nil:
		return s.tables[class], "", nil
	case q.Method == "VM.snapshot":
		return s.snapshot(text(1), text(2))
	}
	return nil, "MESSAGE_METHOD_UNKNOWN", []string{q.Method}
}

func (s *Server) newSession() string {
	s.next++
	id := fmt.Sprintf("OpaqueRef:session-%d", s.next)
	s.sessions[id] = true
	return id
}
