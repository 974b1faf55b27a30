/* Reads the client's inputs from files. */
#ifndef EXAMPLE_IMAGE_H
#define EXAMPLE_IMAGE_H

#include <safenet.h>

/*
 * Reads the values of one input of a model. The file is
 *   - a binary PGM (P5) or PPM (P6) image of 8 bits whose size is that of the model's input, scaled to 0 .. 1,
 *   - raw little-endian 32-bit floats, if its name ends in .f32,
 *   - or numbers as text, between white space.
 * NULL, after a complaint, if it is none of these or does not fit. To be freed.
 */
float *read_input(const char *path, const safenet_model_info *info);

#endif
