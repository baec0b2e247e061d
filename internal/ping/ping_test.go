package ping

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/virt-rotate/virt-rotate/internal/tidy"
)

func TestMain(m *testing.M) { os.Exit(tidy.Run(m.Run)) }

const secret = "/f4711-secret"

func TestAServiceHearsOfARun(t *testing.T) {
	var method, path, kind, body string
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		data, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		method, path, kind, body = r.Method, r.URL.RequestURI(), r.Header.Get("Content-Type"), string(data)
	}))
	defer server.Close()
	for _, c := range []struct{ method, report, want string }{
		{"POST", "web: snapshot taken\n", "web: snapshot taken\n"},
		{"POST", strings.Repeat("x", 2*MaxReport), strings.Repeat("x", MaxReport)},
		{"GET", "web: snapshot taken\n", ""},
	} {
		err := Send(t.Context(), Ping{server.URL + secret + "?status=up", c.method, c.report, time.Minute})
		if err != nil || method != c.method || path != secret+"?status=up" || body != c.want || c.method == "POST" && kind != "text/plain; charset=utf-8" {
			t.Errorf("%s: %v; heard %s %s %q %q", c.method, err, method, path, kind, body)
		}
	}
}

// Whatever is wrong with a service: it is told in time, and the address stays secret.
func TestAServiceThatDoesNotTakeIt(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	nobody, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody.Close()
	gone := httptest.NewServer(http.NotFoundHandler())
	defer gone.Close()
	endless := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for r.Context().Err() == nil {
			if _, err := w.Write(make([]byte, 1<<16)); err != nil {
				return
			}
		}
	}))
	defer endless.Close()
	for what, c := range map[string]struct{ url, want string }{
		"silent":     {"http://" + silent.Addr().String(), "deadline exceeded"},
		"nobody":     {"http://" + nobody.Addr().String(), "connection refused"},
		"gone":       {gone.URL, "answers 404 Not Found"},
		"endless":    {endless.URL, ""},
		"no address": {"::", "not a web address"},
	} {
		start := time.Now()
		err := Send(context.Background(), Ping{c.url + secret, "POST", "report", time.Second})
		switch {
		case c.want == "" && err != nil, c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), secret)):
			t.Errorf("%s: %v, want %q", what, err, c.want)
		case time.Since(start) > 30*time.Second:
			t.Errorf("%s: took %s", what, time.Since(start))
		}
	}
}
