// Package ping tells a web service, such as healthchecks.io, that something has begun or
// ended.
//
// What holds:
//   - Send returns within the time limit, whatever the service does.
//   - At most MaxReport bytes are sent, and at most a few are read.
//   - Its errors name the host of the service alone: the rest of the address is a secret.
package ping

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"
)

// MaxReport is how many bytes of a report are sent: healthchecks.io keeps 10 kB of it
// by default.
const MaxReport = 10_000

// maxAnswer is how much of an answer is read, so that the connection ends well.
const maxAnswer = 64 << 10

// A Ping is one message.
type Ping struct {
	URL     string
	Method  string // POST, or GET, which carries no report
	Report  string // what has happened; the end of it is left out where it is too long
	Timeout time.Duration
}

// Send sends p once. The error tells why the service did not take it.
func Send(ctx context.Context, p Ping) error {
	ctx, cancel := context.WithTimeout(ctx, p.Timeout)
	defer cancel()
	var body io.Reader
	if p.Method == http.MethodPost {
		body = bytes.NewReader([]byte(p.Report)[:min(len(p.Report), MaxReport)])
	}
	request, err := http.NewRequestWithContext(ctx, p.Method, p.URL, body)
	if err != nil {
		return errors.New("not a web address")
	}
	request.Header.Set("User-Agent", "virt-rotate")
	if body != nil {
		request.Header.Set("Content-Type", "text/plain; charset=utf-8")
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return fmt.Errorf("%s: %w", request.URL.Host, withoutAddress(err))
	}
	defer answer.Body.Close()
	_, _ = io.CopyN(io.Discard, answer.Body, maxAnswer) // the status has come already
	if answer.StatusCode >= http.StatusBadRequest {
		return fmt.Errorf("%s answers %s", request.URL.Host, answer.Status)
	}
	return nil
}

// withoutAddress takes the address off an error of net/http.
func withoutAddress(err error) error {
	var e *url.Error
	if errors.As(err, &e) {
		return e.Err
	}
	return err
}
