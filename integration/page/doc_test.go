// Package page_test shows pages in a real browser, headless Chromium: the file that report writes, and
// Cockpit's page. Its tests have the tag page (make test-page).
package page_test
