// Entropy decoding of baseline JPEGs for libjpeg, which spends most of a photo's time on it.
//
// libjpeg looks a Huffman code up by its first 8 bits and then reads the coefficient's own bits; here one look-up of
// LOOK bits gives the run of zeros, the coefficient and how many bits both took, which nearly always is all there is
// to do. Like libjpeg, "jdhuff.c", it follows ITU-T T.81, annex F.2. It stands in for libjpeg's decoder by taking the
// place of its `decode_mcu`. It knows only what is usual and sound: in anything else it stops with `libjpeg_fail`.

#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <jerror.h>
#include <jpeglib.h>

#ifndef LIBJPEG_TURBO_VERSION
#error "libjpeg-turbo is needed: another libjpeg decodes to other pixels"
#endif

// What libjpeg keeps of its entropy decoders, in all versions since 6b ("jpegint.h").
struct jpeg_entropy_decoder {
  void (*start_pass)(j_decompress_ptr);
  boolean (*decode_mcu)(j_decompress_ptr, JBLOCKROW *);
};

enum { LOOK = 10, ROWS = 1 << LOOK, LONGEST = 16 };

// What LOOK bits of the stream begin with, in one word: a shift by an entry is a shift by its BITS.
//   BITS   those of the code and, if VALUE is not 0, of the coefficient; 0 where the code is longer than LOOK
//   MORE   bits of the coefficient that follow, where they do not fit into LOOK
//   RUN    of zeros before the coefficient
//   VALUE  of the coefficient, signed
typedef uint32_t Entry;
#define ENTRY(bits, more, run, value) ((Entry)(bits) | (Entry)(more) << 6 | (Entry)(run) << 10 | (Entry)(value) << 16)
#define BITS(entry) ((int)((entry) & 63))
#define MORE(entry) ((int)((entry) >> 6 & 15))
#define RUN(entry) ((int)((entry) >> 10 & 15))
#define VALUE(entry) ((int32_t)(entry) >> 16)

typedef struct {
  Entry entries[ROWS];
  int32_t last[LONGEST + 2];   // the largest code of each length, left-justified to 16 bits and one more; -1 if none
  int32_t first[LONGEST + 2];  // what added to a code gives its place in `symbols`
  uint8_t symbols[256];
  UINT8 made_of[17 + 256];
  bool made;
} Codes;

// The stream's next bits, in registers while blocks are decoded: a compiler keeps no field of a struct there.
typedef struct {
  uint64_t buffer;  // the very next bit on top
  int bits;         // how many of them count
} Bits;

typedef struct {
  Codes dc[NUM_HUFF_TBLS], ac[NUM_HUFF_TBLS];
  Bits bits;
  int beyond;  // how many of the bits are zeros from behind the end
  const uint8_t *at, *end;
  int dc_before[MAX_COMPS_IN_SCAN];
  unsigned restart_in, restarts;
} Huffman;

// Where coefficients lie in a block, in the order in which they come; a run may lead up to 15 places too far.
static const uint8_t NATURAL[80] = {
    0,  1,  8,  16, 9,  2,  3,  10, 17, 24, 32, 25, 18, 11, 4,  5,  12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13,
    6,  7,  14, 21, 28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59, 52, 45, 38, 31,
    39, 46, 53, 60, 61, 54, 47, 55, 62, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63};

// A coefficient of `size` bits: those that begin with 0 are negative.
static inline int extend(uint32_t bits, int size) {
  return size == 0 ? 0 : (int)bits - ((((int)bits >> (size - 1)) - 1) & ((1 << size) - 1));
}

// False if these are no Huffman codes.
static bool make_codes(Codes *codes, const JHUFF_TBL *table, bool dc) {
  if (table == NULL) return false;
  if (codes->made && !memcmp(codes->made_of, table->bits, 17) && !memcmp(codes->made_of + 17, table->huffval, 256))
    return true;
  codes->made = false;
  memset(codes->entries, 0, sizeof codes->entries);
  memcpy(codes->symbols, table->huffval, 256);
  uint32_t code = 0;
  int place = 0;
  for (int length = 1; length <= LONGEST; length++, code <<= 1) {
    int count = table->bits[length];
    codes->first[length] = place - (int32_t)code;
    codes->last[length] = count ? (int32_t)(code + (uint32_t)count - 1) : -1;
    if (place + count > 256 || code + (uint32_t)count > 1u << length) return false;
    for (int i = 0; i < count; i++, code++, place++) {
      int symbol = table->huffval[place], run = symbol >> 4, size = symbol & 15;
      if (dc ? symbol > 11 : size > 10) return false;
      if (length > LOOK) continue;
      int rest = LOOK - length;
      for (uint32_t tail = 0; tail < 1u << rest; tail++) {
        Entry *entry = &codes->entries[code << rest | tail];
        if (size <= rest)
          *entry = ENTRY(length + size, 0, run, extend(tail >> (rest - size), size));
        else
          *entry = ENTRY(length, size, run, 0);
      }
    }
  }
  memcpy(codes->made_of, table->bits, 17);
  memcpy(codes->made_of + 17, table->huffval, 256);
  codes->made = true;
  return true;
}

// 56 bits or more, but byte by byte: zeros behind the end of the scan, or before a marker.
static Bits refill_slowly(Huffman *state, Bits bits) {
  bits.buffer &= bits.bits ? ~0ull << (64 - bits.bits) : 0;
  while (bits.bits < 56) {
    uint64_t byte = 0;
    if (state->at < state->end && (*state->at != 0xff || (state->end - state->at >= 2 && state->at[1] == 0))) {
      byte = *state->at;
      state->at += byte == 0xff ? 2 : 1;
    } else {
      state->beyond += 8;
    }
    bits.buffer |= byte << (56 - bits.bits);
    bits.bits += 8;
  }
  return bits;
}

// 56 bits or more.
static inline __attribute__((always_inline)) Bits refill(Huffman *state, Bits bits) {
  if (__builtin_expect(state->end - state->at >= 8, 1)) {
    uint64_t word;
    memcpy(&word, state->at, 8);
    // No byte is 0xff, behind which there is a zero to be left out, or a marker.
    if (__builtin_expect(!((~word - 0x0101010101010101u) & word & 0x8080808080808080u), 1)) {
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
      word = __builtin_bswap64(word);
#endif
      // What does not count of the last byte is read again next time: the same bits.
      int taken = (63 - bits.bits) >> 3;
      state->at += taken;
      return (Bits){bits.buffer | word >> bits.bits, bits.bits + 8 * taken};
    }
  }
  return refill_slowly(state, bits);
}

static inline uint32_t peek(Bits bits, int count) { return (uint32_t)(bits.buffer >> (64 - count)); }
static inline Bits drop(Bits bits, int count) { return (Bits){bits.buffer << count, bits.bits - count}; }

// What a code longer than LOOK stands for; 0 if there is no such code.
static Entry long_entry(const Codes *codes, Bits bits) {
  for (int length = LOOK + 1; length <= LONGEST; length++) {
    int32_t code = (int32_t)peek(bits, length);
    if (code > codes->last[length]) continue;
    int symbol = codes->symbols[(code + codes->first[length]) & 0xff];
    return ENTRY(length, symbol & 15, symbol >> 4, 0);
  }
  return 0;
}

static bool next_restart(Huffman *state) {
  // Fewer than 8 bits may be left of the last byte, and fill bytes may come before the marker.
  if (state->bits.bits - state->beyond >= 8) return false;
  while (state->end - state->at >= 2 && state->at[0] == 0xff && state->at[1] == 0xff) state->at++;
  if (state->end - state->at < 2 || state->at[0] != 0xff || state->at[1] != 0xd0 + state->restarts % 8) return false;
  state->at += 2;
  state->restarts++;
  state->bits = (Bits){0, 0};
  state->beyond = 0;
  memset(state->dc_before, 0, sizeof state->dc_before);
  return true;
}

// One block; `block` is NULL where nobody wants it. False if there is no such code, or there are too many values.
static inline __attribute__((always_inline)) bool read_block(Huffman *state, const Codes *dc, const Codes *ac,
                                                             int *dc_before, JCOEF *block) {
  Bits bits = refill(state, state->bits);
  Entry entry = dc->entries[peek(bits, LOOK)];
  if (__builtin_expect(BITS(entry) == 0, 0) && (entry = long_entry(dc, bits)) == 0) return false;
  int value = VALUE(entry), place = 1;
  bits = drop(bits, BITS(entry));
  if (MORE(entry)) {
    value = extend(peek(bits, MORE(entry)), MORE(entry));
    bits = drop(bits, MORE(entry));
  }
  *dc_before = (int)((unsigned)*dc_before + (unsigned)value);  // sums of hostile differences wrap
  if (block != NULL) block[0] = (JCOEF)*dc_before;
  do {
    bits = refill(state, bits);
    // As many as there are bits for, whatever they are: no branch depends on how many are left.
    for (int turn = 0; turn < 56 / LOOK; turn++) {
      entry = ac->entries[peek(bits, LOOK)];
      if (__builtin_expect(VALUE(entry) == 0, 0)) goto unusual;
      bits = drop(bits, BITS(entry));
      place += RUN(entry);
      if (block != NULL) block[NATURAL[place]] = (JCOEF)VALUE(entry);
      if (++place >= 64) goto full;
    }
    continue;
  unusual:
    bits = refill(state, bits);
    if (__builtin_expect(BITS(entry) == 0, 0) && (entry = long_entry(ac, bits)) == 0) return false;
    bits = drop(bits, BITS(entry));
    place += RUN(entry);
    if (MORE(entry)) {
      if (block != NULL) block[NATURAL[place]] = (JCOEF)extend(peek(bits, MORE(entry)), MORE(entry));
      bits = drop(bits, MORE(entry));
    } else if (RUN(entry) != 15) {
      state->bits = bits;
      return RUN(entry) == 0;  // no more values: the end of the block
    }
    place++;
  } while (place < 64);
full:
  state->bits = bits;
  return place == 64;
}

static bool read_mcu(Huffman *state, j_decompress_ptr info, JBLOCKROW *blocks) {
  if (info->restart_interval && state->restart_in-- == 0) {
    if (!next_restart(state)) return false;
    state->restart_in = info->restart_interval - 1;
  }
  for (int number = 0; number < info->blocks_in_MCU; number++) {
    int component = info->MCU_membership[number];
    const jpeg_component_info *about = info->cur_comp_info[component];
    const Codes *dc = &state->dc[about->dc_tbl_no], *ac = &state->ac[about->ac_tbl_no];
    int *before = &state->dc_before[component];
    bool good = blocks == NULL ? read_block(state, dc, ac, before, NULL)
                               : read_block(state, dc, ac, before, *blocks[number]);
    if (!good) return false;
  }
  return state->bits.bits >= state->beyond;
}

static boolean decode_mcu(j_decompress_ptr info, JBLOCKROW *blocks) {
  if (!read_mcu(info->client_data, info, blocks)) ERREXIT(info, JERR_BAD_HUFF_TABLE);
  return TRUE;
}

// Decode the scan that libjpeg has just begun; false if it is not of the usual kind, and libjpeg goes on itself.
static bool huffman_begin(Huffman *state, j_decompress_ptr info) {
  if (info->progressive_mode || info->arith_code || info->data_precision != 8 || info->entropy == NULL) return false;
  if (info->comps_in_scan != info->num_components || jpeg_has_multiple_scans(info)) return false;
  for (int i = 0; i < info->comps_in_scan; i++) {
    const jpeg_component_info *about = info->cur_comp_info[i];
    int dc = about->dc_tbl_no, ac = about->ac_tbl_no;
    if (dc < 0 || dc >= NUM_HUFF_TBLS || ac < 0 || ac >= NUM_HUFF_TBLS) return false;
    if (!make_codes(&state->dc[dc], info->dc_huff_tbl_ptrs[dc], true)) return false;
    if (!make_codes(&state->ac[ac], info->ac_huff_tbl_ptrs[ac], false)) return false;
  }
  state->at = info->src->next_input_byte;
  state->end = state->at + info->src->bytes_in_buffer;
  state->bits = (Bits){0, 0};
  state->beyond = 0;
  state->restart_in = info->restart_interval;
  state->restarts = 0;
  memset(state->dc_before, 0, sizeof state->dc_before);
  info->client_data = state;
  info->entropy->decode_mcu = decode_mcu;
  return true;
}

// Give the stream back to libjpeg where the scan ends; false if there is more of it than the image needs.
static bool huffman_end(Huffman *state, j_decompress_ptr info) {
  if (state->bits.bits - state->beyond >= 8) return false;
  info->src->next_input_byte = state->at;
  info->src->bytes_in_buffer = (size_t)(state->end - state->at);
  return true;
}
