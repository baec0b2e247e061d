// Package convert makes images out of others: each is written under a temporary name, made
// durable and then named. Under its name an image is there whole, or not at all.
package convert
