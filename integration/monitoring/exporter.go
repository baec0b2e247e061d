package monitoring

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net/http"
	"os/exec"
	"regexp"
	"time"
)

// listening is what node_exporter logs once it can be asked.
var listening = regexp.MustCompile(`Listening on"? address=(\S+:\d+)`)

// patience is how long node_exporter may take to start, and to answer.
const patience = time.Minute

// Scrape starts a node_exporter that has nothing but the textfile collector on dir, and
// returns what it tells.
func Scrape(ctx context.Context, dir string) (string, error) {
	program, err := Tool("node_exporter")
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, "--collector.disable-defaults", "--collector.textfile",
		"--collector.textfile.directory="+dir, "--web.listen-address=127.0.0.1:0")
	log, err := cmd.StderrPipe()
	if err != nil {
		return "", err
	}
	if err := cmd.Start(); err != nil {
		return "", err
	}
	text, err := ask(ctx, log)
	cancel()
	_ = cmd.Wait() // it was killed
	return text, err
}

func ask(ctx context.Context, log io.Reader) (string, error) {
	for lines := bufio.NewScanner(log); lines.Scan(); {
		if m := listening.FindStringSubmatch(lines.Text()); m != nil {
			return get(ctx, "http://"+m[1]+"/metrics")
		}
	}
	return "", errors.New("node_exporter has not said where it listens")
}

func get(ctx context.Context, url string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	answer, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	return string(body), err
}
