package policy

import (
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/BurntSushi/toml"
)

// Coordination says where hosts that have the same storage tell each other what they use.
type Coordination struct {
	Engine       CoordinationEngine `json:"engine"`
	Endpoints    []string           `json:"endpoints,omitempty"`     // URLs of members of an etcd cluster, all with TLS or all without
	CAFile       string             `json:"ca_file,omitempty"`       // PEM: who signs the members' certificates; "": the system's authorities
	CertFile     string             `json:"cert_file,omitempty"`     // PEM: of this host
	KeyFile      string             `json:"key_file,omitempty"`      // PEM: of that
	User         string             `json:"user,omitempty"`          // of etcd
	PasswordFile string             `json:"password_file,omitempty"` // its first line
	Prefix       string             `json:"prefix"`                  // of all keys
}

// TOML writes the [coordination] table as the file has it; "" where it has none.
func (c *Coordination) TOML() string {
	if c.Engine != EngineEtcd {
		return ""
	}
	var b strings.Builder
	b.WriteString("[coordination]\n")
	for _, f := range coordinationFields(c) {
		if text := f.text(); text != `""` {
			fmt.Fprintf(&b, "%-13s = %s\n", f.key, text)
		}
	}
	return b.String()
}

// CoordinationEngine is where they do.
type CoordinationEngine string

// The engines.
const (
	EngineShare CoordinationEngine = "share" // files on the storage itself
	EngineEtcd  CoordinationEngine = "etcd"
)

// UnmarshalText accepts the engines.
func (e *CoordinationEngine) UnmarshalText(text []byte) error {
	return choose(e, text, EngineShare, EngineEtcd)
}

// MarshalText never fails.
func (e CoordinationEngine) MarshalText() ([]byte, error) { return []byte(e), nil }

// coordinationPrefix is Prefix unless the file says otherwise.
const coordinationPrefix = "/virt-rotate"

func coordinationFields(c *Coordination) []field {
	return []field{
		text("engine", &c.Engine, "etcd"),
		list("endpoints", &c.Endpoints, endpoints),
		text("ca_file", (*filePath)(&c.CAFile), "/etc/pki/tls/certs/etcd-ca.pem"),
		text("cert_file", (*filePath)(&c.CertFile), "/etc/virt-rotate/etcd.pem"),
		text("key_file", (*filePath)(&c.KeyFile), "/etc/virt-rotate/etcd.key"),
		text("user", (*word)(&c.User), "virt-rotate"),
		text("password_file", (*filePath)(&c.PasswordFile), "/etc/virt-rotate/etcd.password"),
		text("prefix", (*keyPrefix)(&c.Prefix), coordinationPrefix),
	}
}

// endpoints reads URLs of members.
func endpoints(items []string) ([]string, error) {
	for _, item := range items {
		u, err := url.Parse(item)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" {
			return nil, fmt.Errorf("%q: want https://HOST:2379", item)
		}
		if !strings.HasPrefix(items[0], u.Scheme+"://") {
			return nil, errors.New("want https:// for all members, or http:// for all")
		}
	}
	return items, nil
}

// keyPrefix is the beginning of keys: words with a slash before each.
type keyPrefix string

func (p *keyPrefix) UnmarshalText(text []byte) error {
	s := strings.TrimSuffix(string(text), "/")
	if !strings.HasPrefix(s, "/") || strings.Contains(s, "//") || strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return fmt.Errorf("%q: want a prefix of keys such as %q", text, coordinationPrefix)
	}
	*p = keyPrefix(s)
	return nil
}

func (p keyPrefix) MarshalText() ([]byte, error) { return []byte(p), nil }

// checkCoordination wants what the engine needs, and nothing that it does not read.
func (p *parser) checkCoordination(c *Coordination) {
	at := func(key string) toml.Key { return toml.Key{"coordination", key} }
	switch {
	case c.Engine == EngineEtcd && len(c.Endpoints) == 0 && !p.faulty(at("endpoints")):
		p.add(at("engine"), "etcd needs endpoints: the URLs of its members")
	case c.Engine == EngineShare && len(c.Endpoints) > 0 && !p.faulty(at("engine")):
		p.add(at("endpoints"), `nobody asks them: want engine = "etcd" as well`)
	}
	if (c.CertFile == "") != (c.KeyFile == "") {
		p.add(at("cert_file"), "want both cert_file and key_file, or none")
	}
	if c.User != "" && c.PasswordFile == "" {
		p.add(at("user"), "want password_file as well")
	}
}
