package xapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"
)

// hops are how often one host may send on to another.
const hops = 3

// export opens a disk as a stream of VHD: in full, or with base what has changed since that
// one. The host does not tell a length; errors while it reads the disk cut the stream off,
// for its headers are sent before. A host that does not see the disk's repository sends on to
// one that does.
func (c *Client) export(ctx context.Context, vdi, base string) (io.ReadCloser, error) {
	query := url.Values{"session_id": {c.session}, "vdi": {vdi}, "format": {"vhd"}}
	if base != "" {
		query.Set("base", base)
	}
	at := c.base.JoinPath("export_raw_vdi")
	at.RawQuery = query.Encode()
	for range hops {
		body, next, err := c.get(ctx, at)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", at.Host, err)
		}
		if next == nil {
			return body, nil
		}
		at = next
	}
	return nil, fmt.Errorf("%s: hosts send from one to another", at.Host)
}

// get opens what is there, or tells where it is.
func (c *Client) get(ctx context.Context, at *url.URL) (io.ReadCloser, *url.URL, error) {
	ctx, cancel := context.WithCancel(ctx)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at.String(), nil)
	if err != nil {
		cancel()
		return nil, nil, withoutURL(err)
	}
	req.Close = true
	resp, err := c.http.RoundTrip(req)
	if err != nil {
		cancel()
		return nil, nil, withoutURL(err)
	}
	if resp.StatusCode == http.StatusOK {
		return newWatched(resp.Body, cancel), nil, nil
	}
	defer cancel()
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusUnauthorized:
		return nil, nil, &ServerError{Method: "export_raw_vdi", Code: codeSession}
	case http.StatusFound, http.StatusMovedPermanently, http.StatusTemporaryRedirect:
		next, err := c.elsewhere(resp, at)
		return nil, next, err
	}
	return nil, nil, statusError(resp)
}

// elsewhere is where a host sends on to: the same disk on another host, of which nothing
// but the name is taken.
func (c *Client) elsewhere(resp *http.Response, at *url.URL) (*url.URL, error) {
	to, err := resp.Location()
	if err != nil || to.Scheme != "https" || to.Path != at.Path || !plainHost(to.Hostname()) {
		return nil, errors.New("it sends on to what is no host of a pool")
	}
	next := *at
	next.Host = hostPort(to.Hostname(), to.Port())
	return &next, nil
}

// A watched stream ends with an error when nothing comes any more.
type watched struct {
	io.ReadCloser
	cancel context.CancelFunc
	timer  *time.Timer
}

func newWatched(body io.ReadCloser, cancel context.CancelFunc) *watched {
	return &watched{body, cancel, time.AfterFunc(idleTimeout, cancel)}
}

func (w *watched) Read(b []byte) (int, error) {
	w.timer.Reset(idleTimeout)
	return w.ReadCloser.Read(b)
}

// Close ends the connection, whatever is still to come.
func (w *watched) Close() error {
	w.timer.Stop()
	w.cancel()
	return w.ReadCloser.Close()
}
