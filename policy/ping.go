package policy

import (
	"errors"
	"net/url"
	"strings"
	"time"
)

// Ping says which web addresses are told of each run: those of a service that raises an
// alarm when it hears of a failure, or nothing at all. Empty = none.
type Ping struct {
	Start   string        // a run begins its work
	Success string        // a run ended, and nothing was refused
	Failure string        // something failed or was refused
	Method  PingMethod    // how they are asked
	Timeout time.Duration // of each
}

// PingMethod is the HTTP method of a ping.
type PingMethod string

// POST carries a short report; GET is for services that take nothing else.
const (
	PingPost PingMethod = "POST"
	PingGet  PingMethod = "GET"
)

// UnmarshalText accepts POST and GET.
func (m *PingMethod) UnmarshalText(text []byte) error { return choose(m, text, PingPost, PingGet) }

// MarshalText never fails.
func (m PingMethod) MarshalText() ([]byte, error) { return []byte(m), nil }

func pingFields(p *Ping) []field {
	return []field{
		text("start", (*webAddress)(&p.Start), "https://hc-ping.com/UUID/start"),
		text("success", (*webAddress)(&p.Success), "https://hc-ping.com/UUID"),
		text("failure", (*webAddress)(&p.Failure), "https://hc-ping.com/UUID/fail"),
		text("method", &p.Method, "POST"),
		text("timeout", (*interval)(&p.Timeout), "10s"),
	}
}

// webAddress is an http or https URL, or "" for none. What is in it is a secret: errors
// do not repeat it.
type webAddress string

func (a *webAddress) UnmarshalText(text []byte) error {
	u, err := url.Parse(string(text))
	if len(text) > 0 && (err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || strings.ContainsAny(string(text), " \n")) {
		return errors.New("not a web address: want http://HOST/… or https://HOST/…")
	}
	*a = webAddress(text)
	return nil
}

func (a webAddress) MarshalText() ([]byte, error) { return []byte(a), nil }
