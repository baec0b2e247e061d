package xapi

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

const (
	mostAnswer  = 1 << 30 // bytes of an answer: the records of a large pool have some 100 MB
	mostError   = 4 << 10 // bytes of what a host says about an error
	dialTimeout = 30 * time.Second
	idleTimeout = 5 * time.Minute // without a byte, while a host attaches a disk
	reads       = 3               // attempts at what changes nothing
	originator  = "virt-rotate"
	apiVersion  = "1.0"
)

// A Config says how a pool is reached.
type Config struct {
	URL            string // https://HOST or https://HOST:PORT of any host of the pool
	User, Password string
	Roots          *x509.CertPool // nil: those of this system
	// Fingerprints, if there are any, are those of the certificates of the pool's hosts, as
	// in "sha256:…"; nothing else counts then.
	Fingerprints []string
	// Pause is how long is waited before a second attempt; 0: 2 s.
	Pause time.Duration
}

// A Client has a session with a pool. It is for one call at a time.
type Client struct {
	config  Config
	base    *url.URL
	http    *http.Transport // it sends on to nowhere, and its errors name no URL
	session string
	id      int
}

// Dial logs in, at the pool's master if the host is another one. Logout ends the session.
func Dial(ctx context.Context, config Config) (*Client, error) {
	base, err := url.Parse(config.URL)
	if err != nil || base.Scheme != "https" || base.Host == "" || base.User != nil || strings.Trim(base.Path, "/") != "" || base.RawQuery != "" {
		return nil, fmt.Errorf("%q: want https://HOST", config.URL)
	}
	secure, err := config.transport()
	if err != nil {
		return nil, err
	}
	if config.Pause == 0 {
		config.Pause = 2 * time.Second
	}
	c := &Client{config: config, base: hostURL(base.Host)}
	c.http = &http.Transport{TLSClientConfig: secure, ResponseHeaderTimeout: idleTimeout, Proxy: http.ProxyFromEnvironment,
		DialContext: (&net.Dialer{Timeout: dialTimeout}).DialContext, TLSHandshakeTimeout: dialTimeout, DisableCompression: true}
	return c, c.login(ctx)
}

// Host is the one that is asked: the pool's master.
func (c *Client) Host() string { return c.base.Host }

// A ServerError is what xapi answers: an error code of its data model, with its parameters.
type ServerError struct {
	Method string
	Code   string
	Params []string
}

func (e *ServerError) Error() string {
	text := strings.Join(append([]string{e.Code}, e.Params...), ", ")
	switch e.Code {
	case "SESSION_AUTHENTICATION_FAILED":
		text = "the user or the password is wrong (" + e.Code + ")"
	case "RBAC_PERMISSION_DENIED":
		text += "; the user's role does not allow it"
	}
	return e.Method + ": " + short(text)
}

const (
	codeSlave   = "HOST_IS_SLAVE"
	codeSession = "SESSION_INVALID"
)

// isCode tells whether err is that error of xapi.
func isCode(err error, code string) bool {
	var e *ServerError
	return errors.As(err, &e) && e.Code == code
}

// login gets a session, from the master.
func (c *Client) login(ctx context.Context) error {
	c.session = ""
	for range 2 {
		err := c.once(ctx, "session.login_with_password", &c.session, c.config.User, c.config.Password, apiVersion, originator)
		var e *ServerError
		if !errors.As(err, &e) || e.Code != codeSlave {
			return c.hosted(err)
		}
		if len(e.Params) == 0 || !plainHost(e.Params[0]) {
			return c.hosted(errors.New("it is no master, and does not tell which host is"))
		}
		c.base = hostURL(hostPort(e.Params[0], c.base.Port()))
	}
	return c.hosted(errors.New("it was told to be the master, and says that it is none"))
}

func (c *Client) hosted(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", c.base.Host, err)
}

// plainHost wants an address or a name, and nothing that a URL could make more of.
func plainHost(host string) bool {
	if net.ParseIP(host) != nil {
		return true
	}
	return host != "" && len(host) < 254 && strings.Trim(strings.ToLower(host), "abcdefghijklmnopqrstuvwxyz0123456789.-") == ""
}

func hostURL(host string) *url.URL { return &url.URL{Scheme: "https", Host: host, Path: "/"} }

func hostPort(host, port string) string {
	if port != "" {
		return net.JoinHostPort(host, port)
	}
	if strings.Contains(host, ":") {
		return "[" + host + "]"
	}
	return host
}

// Logout ends the session.
func (c *Client) Logout(ctx context.Context) error {
	if c.session == "" {
		return nil
	}
	err := c.once(ctx, "session.logout", nil, c.session)
	c.session = ""
	c.http.CloseIdleConnections()
	if isCode(err, codeSession) {
		return nil
	}
	return c.hosted(err)
}

// read calls what changes nothing, and again if the network or the session fails.
func (c *Client) read(ctx context.Context, method string, result any, params ...any) (err error) {
	for n := range reads {
		if err = c.pause(ctx, n); err != nil {
			return err
		}
		err = c.call(ctx, method, result, params...)
		var e *ServerError
		if err == nil || errors.As(err, &e) || ctx.Err() != nil {
			break
		}
	}
	return c.hosted(err)
}

// pause is before the n-th attempt.
func (c *Client) pause(ctx context.Context, n int) error {
	if n == 0 {
		return ctx.Err()
	}
	select {
	case <-time.After(time.Duration(n) * c.config.Pause):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// call calls with the session, and once more with a new one if it has expired.
func (c *Client) call(ctx context.Context, method string, result any, params ...any) error {
	err := c.once(ctx, method, result, append([]any{c.session}, params...)...)
	if !isCode(err, codeSession) {
		return err
	}
	if err := c.login(ctx); err != nil {
		return err
	}
	return c.once(ctx, method, result, append([]any{c.session}, params...)...)
}

// answer is that of JSON-RPC 2.0.
type answer struct {
	Result json.RawMessage `json:"result"`
	ID     int             `json:"id"`
	Error  *struct {
		Message string   `json:"message"`
		Data    []string `json:"data"`
	} `json:"error"`
}

// once calls without any session.
func (c *Client) once(ctx context.Context, method string, result any, params ...any) error {
	c.id++
	body, err := json.Marshal(map[string]any{"jsonrpc": "2.0", "method": method, "params": params, "id": c.id})
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.base.JoinPath("jsonrpc").String(), bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("%s: %w", method, withoutURL(err))
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := c.http.RoundTrip(req)
	if err != nil {
		return fmt.Errorf("%s: %w", method, withoutURL(err))
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %w", method, statusError(resp))
	}
	var a answer
	if err := json.NewDecoder(io.LimitReader(resp.Body, mostAnswer)).Decode(&a); err != nil {
		return fmt.Errorf("%s: the answer is none of JSON-RPC: %w", method, err)
	}
	switch {
	case a.Error != nil:
		return &ServerError{method, a.Error.Message, a.Error.Data}
	case a.ID != c.id:
		return fmt.Errorf("%s: the answer is that to another call", method)
	case result == nil:
		return nil
	}
	if err := json.Unmarshal(a.Result, result); err != nil {
		return fmt.Errorf("%s: the answer is not as it should be: %w", method, err)
	}
	return nil
}

// withoutURL leaves out the URL, which can have the session in it.
func withoutURL(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}

// A StatusError is an answer of HTTP that is none.
type StatusError struct {
	Status int
	Text   string
}

func (e *StatusError) Error() string {
	return short(fmt.Sprintf("HTTP %d %s", e.Status, e.Text))
}

func statusError(resp *http.Response) error {
	text, _ := io.ReadAll(io.LimitReader(resp.Body, mostError)) // what came of it
	return &StatusError{resp.StatusCode, strings.TrimSpace(tags.ReplaceAllString(string(text), " "))}
}
