package xapi

import (
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
)

// fingerprintPrefix is how a fingerprint says what it is.
const fingerprintPrefix = "sha256:"

// ParseFingerprint reads the fingerprint of a certificate: sha256: and 64 hexadecimal digits,
// with colons between them or without.
func ParseFingerprint(text string) (sum [sha256.Size]byte, err error) {
	digits, ok := strings.CutPrefix(strings.ToLower(text), fingerprintPrefix)
	b, err := hex.DecodeString(strings.ReplaceAll(digits, ":", ""))
	if !ok || err != nil || len(b) != len(sum) {
		return sum, fmt.Errorf("fingerprint %q: want sha256: and 64 hexadecimal digits, as "+
			"openssl x509 -noout -fingerprint -sha256 prints them", text)
	}
	return [sha256.Size]byte(b), nil
}

// A CertificateError says that a host's certificate is none of those that were told.
type CertificateError struct{ Have string }

func (e *CertificateError) Error() string {
	return "its certificate is none of those that were told: its fingerprint is " + e.Have
}

// transport is how connections are secured: by the authorities, or by fingerprints alone.
func (c *Config) transport() (*tls.Config, error) {
	t := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: c.Roots}
	if len(c.Fingerprints) == 0 {
		return t, nil
	}
	known := make([][sha256.Size]byte, len(c.Fingerprints))
	for i, text := range c.Fingerprints {
		var err error
		if known[i], err = ParseFingerprint(text); err != nil {
			return nil, err
		}
	}
	t.InsecureSkipVerify = true // VerifyConnection does it: hosts sign their certificates themselves
	t.VerifyConnection = func(s tls.ConnectionState) error {
		if len(s.PeerCertificates) == 0 {
			return errors.New("the host shows no certificate")
		}
		have := sha256.Sum256(s.PeerCertificates[0].Raw)
		for _, k := range known {
			if subtle.ConstantTimeCompare(k[:], have[:]) == 1 {
				return nil
			}
		}
		return &CertificateError{fingerprintPrefix + hex.EncodeToString(have[:])}
	}
	return t, nil
}
