// Sumdb checks one of our logs with golang.org/x/mod/sumdb, and prints what Go makes of it.
//
//	sumdb FOLDER LOG-KEY WITNESS-KEY OLD-SIZE INDEX...
//
// FOLDER holds the resources of a tlog-tiles log. Anything that does not verify is fatal.
package main

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

type tiles string

func (folder tiles) Height() int                           { return 8 }
func (folder tiles) SaveTiles(_ []tlog.Tile, data [][]byte) {}
func (folder tiles) ReadTiles(wanted []tlog.Tile) (data [][]byte, err error) {
	for _, tile := range wanted {
		// C2SP leaves the height out of a tile's path.
		read, err := os.ReadFile(filepath.Join(string(folder), strings.Replace(tile.Path(), "/8/", "/", 1)))
		if err != nil {
			return nil, err
		}
		data = append(data, read)
	}
	return data, nil
}

// A witness verifies timestamped cosignatures, written here from the specification.
type witness struct {
	name string
	hash uint32
	key  ed25519.PublicKey
}

func (w witness) Name() string    { return w.name }
func (w witness) KeyHash() uint32 { return w.hash }
func (w witness) Verify(text, stamped []byte) bool {
	if len(stamped) != 72 {
		return false
	}
	head := fmt.Sprintf("cosignature/v1\ntime %d\n", binary.BigEndian.Uint64(stamped))
	return ed25519.Verify(w.key, append([]byte(head), text...), stamped[8:])
}

func parseWitness(text string) witness {
	parts := strings.SplitN(text, "+", 3)
	hash, err := strconv.ParseUint(parts[1], 16, 32)
	must(err)
	key, err := base64.StdEncoding.DecodeString(parts[2])
	must(err)
	return witness{parts[0], uint32(hash), key[1:]}
}

func entry(folder string, index int64) []byte {
	paths, err := filepath.Glob(filepath.Join(folder, fmt.Sprintf("tile/entries/%03d*", index/256)))
	must(err)
	for _, path := range paths {
		if found, err := filepath.Glob(filepath.Join(path, "*")); err == nil && len(found) > 0 {
			path = found[len(found)-1]
		}
		data, err := os.ReadFile(path)
		must(err)
		for at := int64(0); len(data) > 0; at++ {
			size := int(binary.BigEndian.Uint16(data))
			if at == index%256 {
				return data[2 : 2+size]
			}
			data = data[2+size:]
		}
	}
	log.Fatalf("no entry %d", index)
	return nil
}

func show(kind string, number int64, path []tlog.Hash) {
	fmt.Print(kind, " ", number)
	for _, hash := range path {
		fmt.Print(" ", hex.EncodeToString(hash[:]))
	}
	fmt.Println()
}

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func main() {
	folder := os.Args[1]
	logKey, err := note.NewVerifier(os.Args[2])
	must(err)
	signed, err := os.ReadFile(filepath.Join(folder, "checkpoint"))
	must(err)
	opened, err := note.Open(signed, note.VerifierList(logKey, parseWitness(os.Args[3])))
	must(err)
	fmt.Println("signatures", len(opened.Sigs), "unverified", len(opened.UnverifiedSigs))

	lines := strings.Split(opened.Text, "\n")
	size, err := strconv.ParseInt(lines[1], 10, 64)
	must(err)
	root, err := tlog.ParseHash(lines[2])
	must(err)
	reader := tlog.TileHashReader(tlog.Tree{N: size, Hash: root}, tiles(folder))
	recomputed, err := tlog.TreeHash(size, reader)
	must(err)
	if recomputed != root {
		log.Fatal("the tiles have another root")
	}

	oldSize, err := strconv.ParseInt(os.Args[4], 10, 64)
	must(err)
	oldRoot, err := tlog.TreeHash(oldSize, reader)
	must(err)
	grown, err := tlog.ProveTree(size, oldSize, reader)
	must(err)
	must(tlog.CheckTree(grown, size, root, oldSize, oldRoot))
	show("consistency", oldSize, grown)

	for _, argument := range os.Args[5:] {
		index, err := strconv.ParseInt(argument, 10, 64)
		must(err)
		path, err := tlog.ProveRecord(size, index, reader)
		must(err)
		must(tlog.CheckRecord(path, size, root, index, tlog.RecordHash(entry(folder, index))))
		show("inclusion", index, path)
	}

	// A note that Go signs, for the other direction.
	secret, public, err := note.GenerateKey(bytes.NewReader(bytes.Repeat([]byte{7}, 64)), "go.example/signer")
	must(err)
	signer, err := note.NewSigner(secret)
	must(err)
	made, err := note.Sign(&note.Note{Text: "signed by Go\n"}, signer)
	must(err)
	fmt.Println("key", public)
	fmt.Println("note", base64.StdEncoding.EncodeToString(made))
}
