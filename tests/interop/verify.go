// Verify holds a published log against code that nobody here wrote: golang.org/x/mod/sumdb/{note,tlog}, which checks
// the go command's own log.
//
//	verify LOG BESIDE
//
// LOG is the folder that a ledger publishes, and every file in it is read. BESIDE is what somebody has kept of it:
//
//	vkeys        verifier keys, one a line
//	heads/*      heads that the log signed when it was shorter, each by its size
//	requests/*   what witnesses were asked (C2SP tlog-witness, add-checkpoint), from the size of one of these heads
//	proofs/*     that an entry stands in the log (C2SP tlog-proof)
//
// It prints what it has counted as a line of JSON, or the first thing that is wrong, and then exits with 1.
package main

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

const height = 8 // Of C2SP's tiles: 256 hashes.

var counts = map[string]int{
	"size": 0, "tiles": 0, "entries": 0, "left": 0, // Left are partial tiles that no head needs any more.
	"heads": 0, "requests": 0, "proofs": 0, "cosignatures": 0,
	"unknown": 0, // Signatures by keys that are not in vkeys, or of a type that x/mod does not know.
}

func main() {
	log, beside := os.Args[1], os.Args[2]
	v := &verifier{keys: readKeys(filepath.Join(beside, "vkeys")), old: map[int64]tlog.Hash{}}
	v.head = v.open("checkpoint", read(filepath.Join(log, "checkpoint")))
	v.readTiles(folder{log, map[tlog.Tile]bool{}})
	each(filepath.Join(beside, "heads"), v.oldHead)
	each(filepath.Join(beside, "requests"), v.request)
	each(filepath.Join(beside, "proofs"), v.proof)
	each(filepath.Join(log, "cosigned"), v.cosigned)
	each(filepath.Join(log, "witness"), v.cosigned)
	each(filepath.Join(log, "attest"), v.cosigned)
	counts["size"] = int(v.head.N)
	line, _ := json.Marshal(counts)
	fmt.Println(string(line))
}

// What is wrong ends the program.

func require(right bool, format string, about ...interface{}) {
	if !right {
		fmt.Fprintf(os.Stderr, format+"\n", about...)
		os.Exit(1)
	}
}

func check(err error, what string) {
	require(err == nil, "%s: %v", what, err)
}

func read(path string) []byte {
	data, err := os.ReadFile(path)
	check(err, path)
	return data
}

// number is what stands behind this prefix, in its one decimal spelling.
func number(what, line, prefix string) int64 {
	n, err := strconv.ParseInt(strings.TrimPrefix(line, prefix), 10, 64)
	require(err == nil && n >= 0 && line == prefix+strconv.FormatInt(n, 10), "%s: bad number %q", what, line)
	return n
}

// each hands every file at or below this path to a function, with the last one or two parts of its path as its name.
func each(path string, do func(what string, data []byte)) {
	check(filepath.WalkDir(path, func(file string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) && file == path {
			return nil
		}
		if err == nil && !entry.IsDir() {
			what, _ := filepath.Rel(filepath.Dir(path), file)
			do(what, read(file))
		}
		return err
	}), path)
}

// Keys.

// A cosigner verifies with a key of type 0x04, which x/mod does not know: C2SP tlog-cosignature.
type cosigner struct {
	name string
	hash uint32
	key  ed25519.PublicKey
}

func (c cosigner) Name() string    { return c.name }
func (c cosigner) KeyHash() uint32 { return c.hash }

func (c cosigner) Verify(text, sig []byte) bool {
	if len(sig) != 8+ed25519.SignatureSize {
		return false
	}
	message := fmt.Sprintf("cosignature/v1\ntime %d\n%s", binary.BigEndian.Uint64(sig), text)
	return ed25519.Verify(c.key, []byte(message), sig[8:])
}

// readKeys reads keys of types 0x01 and 0x04. What other keys sign is counted as unknown.
func readKeys(path string) note.Verifiers {
	var list []note.Verifier
	for _, vkey := range strings.Fields(string(read(path))) {
		part := strings.Split(vkey, "+") // Base64 may have a plus, too.
		require(len(part) >= 3, "%s is no key", vkey)
		name, id := part[0], part[1]
		key, err := base64.StdEncoding.DecodeString(strings.Join(part[2:], "+"))
		check(err, vkey)
		switch {
		case key[0] == 0x01:
			known, err := note.NewVerifier(vkey)
			check(err, vkey)
			list = append(list, known)
		case key[0] == 0x04:
			sum := sha256.Sum256([]byte(name + "\n" + string(key)))
			hash := binary.BigEndian.Uint32(sum[:])
			require(len(key) == 33 && id == fmt.Sprintf("%08x", hash), "%s has another id or length", vkey)
			list = append(list, cosigner{name, hash, key[1:]})
		}
	}
	return note.VerifierList(list...)
}

// Heads.

type head struct {
	tlog.Tree
	cosigners []string
}

type verifier struct {
	keys   note.Verifiers
	head   head
	hashes tlog.HashReader     // Of the tree under this head, all proven.
	old    map[int64]tlog.Hash // Roots by size, of earlier heads.
}

// open parses a signed head: origin, size and root, of which x/mod knows the form of the go command's log only.
func (v *verifier) open(what string, data []byte) head {
	n, err := note.Open(data, v.keys)
	check(err, what)
	lines := strings.Split(n.Text, "\n")
	require(len(lines) == 4, "%s: a head has three lines, this has %d", what, len(lines)-1)
	size := number(what, lines[1], "")
	root, err := tlog.ParseHash(lines[2])
	check(err, what)
	signed, opened := false, head{Tree: tlog.Tree{N: size, Hash: root}}
	for _, sig := range n.Sigs {
		if sig.Name == lines[0] {
			signed = true
		} else {
			opened.cosigners = append(opened.cosigners, sig.Name)
		}
	}
	require(signed, "%s: %s has not signed it", what, lines[0])
	require(size > 0 || root == tlog.Hash(sha256.Sum256(nil)), "%s: not the root of an empty tree", what)
	counts["unknown"] += len(n.UnverifiedSigs)
	return opened
}

// begins proves that the log began with the tree of an older head. With an empty tree every log does.
func (v *verifier) begins(what string, old head) {
	if old.N > 0 {
		path, err := tlog.ProveTree(v.head.N, old.N, v.hashes)
		check(err, what)
		check(tlog.CheckTree(path, v.head.N, v.head.Hash, old.N, old.Hash), what)
	}
}

func (v *verifier) oldHead(what string, data []byte) {
	old := v.open(what, data)
	v.begins(what, old)
	v.old[old.N] = old.Hash
	counts["heads"]++
}

func (v *verifier) cosigned(what string, data []byte) {
	old := v.open(what, data)
	v.begins(what, old)
	require(len(old.cosigners) > 0, "%s: nobody has cosigned it", what)
	role, member := filepath.Split(what) // `witness/acme` is of acme/witness alone; `cosigned` is of any witnesses.
	for _, name := range old.cosigners {
		right := name == member+"/"+filepath.Clean(role) || role == "" && strings.HasSuffix(name, "/witness")
		require(right, "%s: cosigned by %s", what, name)
	}
	counts["cosignatures"] += len(old.cosigners)
}

// Proofs as we write them.

// split parses what requests and proofs have in common: lines, of which those behind the first few are hashes, then a
// blank line and a signed head.
func (v *verifier) split(what string, data []byte, first int) ([]string, []tlog.Hash, head) {
	upper, signed, _ := strings.Cut(string(data), "\n\n")
	lines := strings.Split(upper, "\n")
	require(len(lines) >= first, "%s: cut", what)
	path := []tlog.Hash{}
	for _, line := range lines[first:] {
		hash, err := tlog.ParseHash(line)
		check(err, what)
		path = append(path, hash)
	}
	return lines[:first], path, v.open(what, []byte(signed))
}

func (v *verifier) request(what string, data []byte) {
	lines, path, newer := v.split(what, data, 1)
	size := number(what, lines[0], "old ")
	root, known := v.old[size]
	require(known, "%s: there is no head of size %d", what, size)
	v.begins(what, newer)
	if size > 0 {
		check(tlog.CheckTree(path, newer.N, newer.Hash, size, root), what)
	} else {
		require(len(path) == 0, "%s: from nothing to something there is nothing to prove", what)
	}
	counts["requests"]++
}

func (v *verifier) proof(what string, data []byte) {
	lines, path, newer := v.split(what, data, 2)
	require(lines[0] == "c2sp.org/tlog-proof@v1", "%s: not a proof", what)
	index := number(what, lines[1], "index ")
	v.begins(what, newer)
	leaf, err := v.hashes.ReadHashes([]int64{tlog.StoredHashIndex(0, index)})
	check(err, what)
	check(tlog.CheckRecord(path, newer.N, newer.Hash, index, leaf[0]), what)
	counts["proofs"]++
}

// Tiles. Where x/mod has tile/8/0/001 and tile/8/data/001, C2SP has tile/0/001 and tile/entries/001.

// A folder reads tiles, and remembers which of them x/mod has proven.
type folder struct {
	path   string
	proven map[tlog.Tile]bool
}

func path(t tlog.Tile) string {
	return strings.Replace(strings.Replace(t.Path(), "tile/8/", "tile/", 1), "/data/", "/entries/", 1)
}

func (f folder) Height() int { return height }

func (f folder) ReadTiles(tiles []tlog.Tile) (data [][]byte, err error) {
	for _, t := range tiles {
		if !f.proven[t] {
			f.proven[t] = false
		}
		one, err := os.ReadFile(filepath.Join(f.path, path(t)))
		if err != nil {
			return nil, err
		}
		data = append(data, one)
	}
	return data, nil
}

func (f folder) SaveTiles(tiles []tlog.Tile, _ [][]byte) {
	for _, t := range tiles {
		f.proven[t] = true
	}
}

// unproven names the tiles that were read and are in doubt.
func (f folder) unproven() string {
	var paths []string
	for t, proven := range f.proven {
		if !proven {
			paths = append(paths, path(t))
		}
	}
	sort.Strings(paths)
	return strings.Join(paths, " or ")
}

// readTiles proves every hash tile and every entry, from the root down; then whatever else lies there.
func (v *verifier) readTiles(log folder) {
	var tiles []tlog.Tile // The highest level first; entries last.
	for level := 7; level >= -1; level-- {
		below := height * level
		if level < 0 {
			below = 0
		}
		for n, left := int64(0), v.head.N>>below; left > 0; n, left = n+1, left-256 {
			tiles = append(tiles, tlog.Tile{H: height, L: level, N: n, W: int(min(left, 256))})
		}
	}
	for _, t := range tiles {
		if t.L >= 0 {
			_, err := tlog.ReadTileData(t, tlog.TileHashReader(v.head.Tree, log))
			check(err, log.unproven())
			counts["tiles"]++
		}
	}
	v.hashes = v.readHashes(log)
	needed := map[string]bool{}
	for _, t := range tiles {
		if needed[path(t)] = true; t.L < 0 {
			for i, leaf := range v.bundle(t, read(filepath.Join(log.path, path(t)))) {
				n, err := note.Open(leaf, v.keys) // Every entry is a note.
				check(err, entry(t, i))
				counts["unknown"] += len(n.UnverifiedSigs)
				counts["entries"]++
			}
		}
	}
	each(filepath.Join(log.path, "tile"), func(what string, data []byte) {
		if !needed[what] {
			v.left(what, data)
			counts["left"]++
		}
	})
}

// readHashes gets every hash of the tree through x/mod, which proves them; so each proof below costs what it weighs.
func (v *verifier) readHashes(log folder) tlog.HashReader {
	all := make([]tlog.Hash, tlog.StoredHashCount(v.head.N))
	if v.head.N > 0 {
		indexes := make([]int64, len(all))
		for i := range indexes {
			indexes[i] = int64(i)
		}
		var err error
		all, err = tlog.TileHashReader(v.head.Tree, log).ReadHashes(indexes)
		check(err, log.unproven())
	}
	return tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		found := make([]tlog.Hash, len(indexes))
		for i, index := range indexes {
			if index < 0 || index >= int64(len(all)) {
				return nil, errors.New("not in this tree")
			}
			found[i] = all[index]
		}
		return found, nil
	})
}

func entry(t tlog.Tile, i int) string {
	return fmt.Sprintf("entry %d in %s", 256*t.N+int64(i), path(t))
}

// bundle proves that these are the entries of this tile: each behind its length in 16 bits (C2SP tlog-tiles).
func (v *verifier) bundle(t tlog.Tile, data []byte) (leaves [][]byte) {
	for i := 0; i < t.W; i++ {
		index, what := 256*t.N+int64(i), entry(t, i)
		require(len(data) > 0, "%s: missing", what)
		require(len(data) >= 2 && len(data) >= 2+int(binary.BigEndian.Uint16(data)), "%s: cut", what)
		end := 2 + int(binary.BigEndian.Uint16(data))
		leaf := data[2:end]
		proof, err := tlog.ProveRecord(v.head.N, index, v.hashes)
		check(err, what)
		check(tlog.CheckRecord(proof, v.head.N, v.head.Hash, index, tlog.RecordHash(leaf)), what)
		leaves, data = append(leaves, leaf), data[end:]
	}
	require(len(data) == 0, "%s: more than %d entries", path(t), t.W)
	return leaves
}

// left proves that a tile which this head does not need any more, a partial one, is a beginning of one that it needs.
func (v *verifier) left(what string, data []byte) {
	named := "tile/8/" + strings.Replace(strings.TrimPrefix(what, "tile/"), "entries/", "data/", 1)
	t, err := tlog.ParseTilePath(named)
	check(err, what)
	if t.L < 0 {
		v.bundle(t, data)
		return
	}
	right, err := tlog.ReadTileData(t, v.hashes)
	check(err, what)
	require(bytes.Equal(data, right), "%s: not what it is in the tree", what)
}

func min(a, b int64) int64 {
	if a < b {
		return a
	}
	return b
}
