#define _POSIX_C_SOURCE 200809L

#include "image.h"

#include <ctype.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "common.h"

/* Reads the next number of an image's header, past white space and comments. Returns 0, or -1 if there is none. */
static int header_number(const uint8_t *contents, size_t size, size_t *position, uint32_t *number)
{
    while (*position < size && (isspace(contents[*position]) || contents[*position] == '#')) {
        if (contents[*position] == '#') {
            while (*position < size && contents[*position] != '\n') {
                *position += 1;
            }
        } else {
            *position += 1;
        }
    }
    size_t start = *position;
    *number = 0;
    while (*position < size && *position < start + 9 && isdigit(contents[*position])) {
        *number = 10 * *number + (uint32_t)(contents[*position] - '0');
        *position += 1;
    }
    /* A number of ten digits or more would go on as the next one. */
    return *position == start || (*position < size && isdigit(contents[*position])) ? -1 : 0;
}

static int read_image(const char *path, const uint8_t *contents, size_t size, const safenet_model_info *info,
                      float *values)
{
    uint32_t channels = contents[1] == '5' ? 1 : 3, width, height, most;
    size_t position = 2;
    if (header_number(contents, size, &position, &width) || header_number(contents, size, &position, &height) ||
        header_number(contents, size, &position, &most) || position >= size || !isspace(contents[position])) {
        complain("%s: expected width, height and largest value after 'P%c', got something else near byte %zu", path,
                 contents[1], position);
        return -1;
    }
    position += 1;
    if (most < 1 || most > 255) {
        complain("%s: expected an image of 8 bits (largest value 1 to 255), got largest value %u", path, most);
        return -1;
    }
    if (channels != info->input_channels || width != info->input_width || height != info->input_height) {
        complain("%s: expected an image of the model's %ux%ux%u (channels x height x width), got %ux%ux%u", path,
                 info->input_channels, info->input_height, info->input_width, channels, height, width);
        return -1;
    }
    if (size - position != info->inputs) {
        complain("%s: expected %zu bytes of pixels after the header, got %zu", path, info->inputs, size - position);
        return -1;
    }
    /* Files hold pixels one after another, tensors hold channels one after another. */
    size_t plane = (size_t)width * height;
    for (size_t i = 0; i < plane; i++) {
        for (size_t c = 0; c < channels; c++) {
            uint8_t value = contents[position + i * channels + c];
            if (value > most) {
                complain("%s: expected values of at most %u, got %u at byte %zu", path, most, value,
                         position + i * channels + c);
                return -1;
            }
            values[c * plane + i] = (float)value / (float)most;
        }
    }
    return 0;
}

static int read_raw_floats(const char *path, const uint8_t *contents, size_t size, const safenet_model_info *info,
                           float *values)
{
    if (size / 4 != info->inputs || size % 4) {
        complain("%s: expected %zu floats, %zu bytes, got %zu bytes", path, info->inputs, 4 * info->inputs, size);
        return -1;
    }
    for (size_t i = 0; i < info->inputs; i++) {
        const uint8_t *b = contents + 4 * i;
        uint32_t bits = b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
        memcpy(&values[i], &bits, sizeof bits);
    }
    return 0;
}

static int read_text_floats(const char *path, const uint8_t *contents, size_t size, const safenet_model_info *info,
                            float *values)
{
    char *text = malloc(size + 1);
    if (!text) {
        complain("%s: expected memory for %zu bytes, got none", path, size);
        return -1;
    }
    if (size) {
        memcpy(text, contents, size);
    }
    text[size] = '\0';
    size_t count = 0;
    int result = -1;
    for (char *rest = text;;) {
        while (isspace((unsigned char)*rest)) {
            rest++;
        }
        if (rest == text + size) {
            if (count == info->inputs) {
                result = 0;
            } else {
                complain("%s: expected %zu numbers, got %zu", path, info->inputs, count);
            }
            break;
        }
        char *end;
        float value = strtof(rest, &end);
        if (end == rest || (*end && !isspace((unsigned char)*end))) {
            complain("%s: expected a P5 or P6 image, a .f32 file or numbers as text, got something else at byte %zu", path,
                     (size_t)(rest - text));
            break;
        }
        if (count < info->inputs) {
            values[count] = value;
        }
        count++;
        rest = end;
    }
    free(text);
    return result;
}

float *read_input(const char *path, const safenet_model_info *info)
{
    size_t size, length = strlen(path);
    uint8_t *contents = read_file(path, &size);
    float *values = contents ? malloc(info->inputs * sizeof *values) : NULL;
    int result = -1;
    if (contents && !values) {
        complain("%s: expected memory for %zu values, got none", path, info->inputs);
    } else if (contents) {
        if (length > 4 && !strcmp(path + length - 4, ".f32")) {
            result = read_raw_floats(path, contents, size, info, values);
        } else if (size > 2 && contents[0] == 'P' && (contents[1] == '5' || contents[1] == '6')) {
            result = read_image(path, contents, size, info, values);
        } else {
            result = read_text_floats(path, contents, size, info, values);
        }
    }
    free(contents);
    if (result) {
        free(values);
        values = NULL;
    }
    return values;
}
